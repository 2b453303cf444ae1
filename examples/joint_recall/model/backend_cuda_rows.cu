// Norms and gates.
#include "model/cuda_gated.cuh"
#include "model/cuda_row_sums.cuh"

namespace joint_recall {
namespace {

using namespace cuda_rows;

template <class X, class T>
struct Rmsnorm {
  X x;
  const float* weight;
  float eps;
  T y;
  __device__ void operator()(int64_t r, bool counts, Lanes lanes) const {
    float squares = 0.0f;
    for (int c = lanes.index * kOctet; c < x.columns; c += lanes.count * kOctet) {
      const Octet in = x.load(r, c);
      squares += dot(in, in);
    }
    const float scale = rsqrtf(lanes.sum(squares) / static_cast<float>(x.columns) + eps);
    if (!counts) return;
    for (int c = lanes.index * kOctet; c < x.columns; c += lanes.count * kOctet) {
      Octet out = x.load(r, c);
      const Octet w = X::load_vector(weight, c, x.columns);
      for (int i = 0; i < kOctet; ++i) out.at[i] *= scale * w.at[i];
      y.store(r, c, out);
    }
  }
};

template <class X, class T>
struct RmsnormBackward {
  X x;
  const float* weight;
  float eps;
  T dy, addend, dx;
  __device__ void operator()(int64_t r, bool counts, Lanes lanes, const RowSums& sums) const {
    float squares = 0.0f, product = 0.0f;
    for (int c = lanes.index * kOctet; c < x.columns; c += lanes.count * kOctet) {
      const Octet in = x.load(r, c);
      Octet d = dy.load(r, c);
      const Octet w = X::load_vector(weight, c, x.columns);
      squares += dot(in, in);
      for (int i = 0; i < kOctet; ++i) d.at[i] *= w.at[i];
      product += dot(in, d);
    }
    const auto columns = static_cast<float>(x.columns);
    const float scale = rsqrtf(lanes.sum(squares) / columns + eps);
    const float along = lanes.sum(product) * scale * scale / columns;
    if (!counts) return;
    for (int c = lanes.index * kOctet; c < x.columns; c += lanes.count * kOctet) {
      const Octet in = x.load(r, c), d = dy.load(r, c), w = X::load_vector(weight, c, x.columns);
      Octet out = addend.present() ? addend.load(r, c) : Octet{}, term;
      for (int i = 0; i < kOctet; ++i) {
        out.at[i] += scale * (d.at[i] * w.at[i] - in.at[i] * along);
        term.at[i] = d.at[i] * in.at[i] * scale;
      }
      dx.store(r, c, out);
      sums.add(0, c, term);
    }
  }
};

template <class T>
struct Gated {
  GatedCells<T> in;
  T out;
  __device__ void operator()(int64_t r, int c) const {
    const GatedOctet q = in.load(r, c);
    Octet value;
    for (int i = 0; i < kOctet; ++i) value.at[i] = q.value(i);
    out.store(r, c, value);
  }
};

template <class T>
struct GatedBackward {
  GatedCells<T> in;
  T d_out;
  GatedGradients<T> out;
  __device__ void operator()(int64_t r, bool counts, Lanes lanes, const RowSums& sums) const {
    if (!counts) return;
    for (int c = lanes.index * kOctet; c < d_out.columns; c += lanes.count * kOctet) {
      const Octet dE = out.store(r, c, in.load(r, c), d_out.load(r, c));
      if (in.o.present()) sums.add(0, c, dE);
    }
  }
};

template <class T>
struct GatedRmsnorm {
  GatedCells<T> in;
  const float* weight;
  float eps;
  T out;
  __device__ void operator()(int64_t r, bool counts, Lanes lanes) const {
    const int own = lanes.index * kOctet;  // held from one loop to the next; rows are seldom wider
    GatedOctet held = {};
    float squares = 0.0f;
    for (int c = own; c < out.columns; c += lanes.count * kOctet) {
      const GatedOctet q = in.load(r, c);
      if (c == own) held = q;
      for (int i = 0; i < kOctet; ++i) squares += q.value(i) * q.value(i);
    }
    const float scale = rsqrtf(lanes.sum(squares) / static_cast<float>(out.columns) + eps);
    if (!counts) return;
    for (int c = own; c < out.columns; c += lanes.count * kOctet) {
      const GatedOctet q = c == own ? held : in.load(r, c);
      Octet value = T::load_vector(weight, c, out.columns);
      for (int i = 0; i < kOctet; ++i) value.at[i] *= q.value(i) * scale;
      out.store(r, c, value);
    }
  }
};

template <class T>
struct GatedRmsnormBackward {
  GatedCells<T> in;
  const float* weight;
  float eps;
  T d_out;
  GatedGradients<T> out;
  __device__ void operator()(int64_t r, bool counts, Lanes lanes, const RowSums& sums) const {
    const int columns = d_out.columns;
    // Both loops load what they need: holding a row between them would leave room for few others.
    const int own = lanes.index * kOctet;
    float squares = 0.0f, product = 0.0f;
    for (int c = own; c < columns; c += lanes.count * kOctet) {
      const GatedOctet q = in.load(r, c);
      const Octet d = d_out.load(r, c), w = T::load_vector(weight, c, columns);
      for (int i = 0; i < kOctet; ++i) {
        squares += q.value(i) * q.value(i);
        product += d.at[i] * w.at[i] * q.value(i);
      }
    }
    const auto count = static_cast<float>(columns);
    const float scale = rsqrtf(lanes.sum(squares) / count + eps);
    const float along = lanes.sum(product) * scale * scale / count;
    if (!counts) return;
    for (int c = own; c < columns; c += lanes.count * kOctet) {
      const GatedOctet q = in.load(r, c);
      const Octet w = T::load_vector(weight, c, columns);
      Octet d = d_out.load(r, c), dw;
      for (int i = 0; i < kOctet; ++i) {
        dw.at[i] = d.at[i] * q.value(i) * scale;
        d.at[i] = scale * (d.at[i] * w.at[i] - q.value(i) * along);
      }
      sums.add(0, c, dw);
      const Octet dE = out.store(r, c, q, d);
      if (in.o.present()) sums.add(1, c, dE);
    }
  }
};

}  // namespace

void CudaBackend::rmsnorm(ConstTokens x, const float* weight, float eps, Tokens y) {
  with_cells({x}, {y}, {weight}, [&]<class X, class T>() {
    for_rows(here(), x.rows, x.columns, Rmsnorm<X, T>{x, weight, eps, y});
  });
}

void CudaBackend::rmsnorm_backward(ConstTokens x, const float* weight, float eps, ConstTokens dy,
                                   ConstTokens addend, Tokens dx, float* d_weight) {
  float* partial = partial_sums(kSumPartials * x.columns);
  with_cells({x}, {dy, addend, dx}, {weight}, [&]<class X, class T>() {
    for_rows_with_sums(here(), x.rows, x.columns, 1,
                       RmsnormBackward<X, T>{x, weight, eps, dy, addend, dx}, partial,
                       line_->ticket, d_weight, nullptr);
  });
}

void CudaBackend::gated_sum(const GatedSum& sum, Tokens out) {
  with_cells({}, {sum.y, sum.o, sum.gate, out}, {sum.E}, [&]<class, class T>() {
    for_octets(here(), out.rows, out.columns, Gated<T>{GatedCells<T>(sum), out});
  });
}

void CudaBackend::gated_sum_backward(const GatedSum& sum, ConstTokens d_out,
                                     const GatedSumGradients& gradients) {
  const int64_t columns = d_out.columns, sums = sum.o.present() ? 1 : 0;
  float* partial = partial_sums(kSumPartials * sums * columns);
  with_cells({}, {sum.y, sum.o, sum.gate, d_out, gradients.y, gradients.o, gradients.gate}, {sum.E},
             [&]<class, class T>() {
               for_rows_with_sums(
                   here(), d_out.rows, columns, sums,
                   GatedBackward<T>{GatedCells<T>(sum), d_out, GatedGradients<T>(gradients)},
                   partial, line_->ticket, gradients.E, nullptr);
             });
}

void CudaBackend::gated_rmsnorm(const GatedSum& sum, const float* weight, float eps, Tokens out) {
  with_cells({}, {sum.y, sum.o, sum.gate, out}, {sum.E, weight}, [&]<class, class T>() {
    for_rows(here(), out.rows, out.columns, GatedRmsnorm<T>{GatedCells<T>(sum), weight, eps, out});
  });
}

void CudaBackend::gated_rmsnorm_backward(const GatedSum& sum, const float* weight, float eps,
                                         ConstTokens d_out, const GatedSumGradients& gradients,
                                         float* d_weight) {
  const int64_t columns = d_out.columns, sums = sum.o.present() ? 2 : 1;
  float* partial = partial_sums(kSumPartials * sums * columns);
  with_cells({}, {sum.y, sum.o, sum.gate, d_out, gradients.y, gradients.o, gradients.gate},
             {sum.E, weight}, [&]<class, class T>() {
               for_rows_with_sums(here(), d_out.rows, columns, sums,
                                  GatedRmsnormBackward<T>{GatedCells<T>(sum), weight, eps, d_out,
                                                          GatedGradients<T>(gradients)},
                                  partial, line_->ticket, d_weight, gradients.E);
             });
}

}  // namespace joint_recall
