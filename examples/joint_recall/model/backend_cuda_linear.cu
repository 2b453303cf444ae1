// Norms and gates with the projection behind them, for bf16 and widths of whole groups; other shapes go by parts.
#include "model/cuda_gated.cuh"
#include "model/cuda_quad_launch.cuh"

namespace joint_recall {
namespace {

using namespace cuda_quads;

struct NormLinear {
  OctetCells<float> x;
  const float* weight;
  float eps;
  const uint8_t* mask;
  Bf16Cells projection;
  int64_t rows;
  int outputs, chunk;  // rows of the projection in shared memory at a time
  Bf16Cells normed, y;
};

template <int kGroups>
__global__ void __launch_bounds__(kQuadThreads, 2) norm_linear_kernel(NormLinear p) {
  extern __shared__ uint4 shared[];
  const SharedRows weight = {{shared, kGroups}};
  weight.fill(p.projection, p.outputs, 0, min(p.chunk, p.outputs));
  const Place place(p.rows);
  OctetPair x[kGroups];
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) x[j].row[i] = p.x.load(place.row[i], j * kGroup + place.column);
  }
  Operand left[kGroups];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) squares += dot(x[j].row[i], x[j].row[i]);
    float scale = rsqrtf(Place::row_sum(squares) / (kGroups * kGroup) + p.eps);
    if (p.mask != nullptr && p.mask[place.row[i]] == 0) scale = 0.0f;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int column = j * kGroup + place.column;
      Octet value = Bf16Cells::load_vector(p.weight, column, 0);
      for (int e = 0; e < kOctet; ++e) value.at[e] *= scale * x[j].row[i].at[e];
      left[j].row[i] = rounded(value);
      if (place.counts[i]) p.normed.store_units(place.row[i], column, left[j].row[i]);
    }
  }
  for (int first = 0; first < p.outputs; first += p.chunk) {
    const int count = min(p.chunk, p.outputs - first);
    if (first > 0) {
      __syncthreads();
      weight.fill(p.projection, p.outputs, first, count);
    }
    SharedRows::wait();
    __syncthreads();
    for (int q = 0; q < groups_of(count); ++q) {
      const OctetPair out = product(place, left, weight, q).octets();
      const int column = first + q * kGroup + place.column;
      if (column >= p.outputs) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (place.counts[i]) p.y.store(place.row[i], column, out.row[i]);
      }
    }
  }
}

struct GatedLinear {
  GatedCells<Bf16Cells> in;
  const float* weight;  // of the norm; absent without one
  float eps;
  Bf16Cells projection;
  int64_t rows;
  int outputs, chunk;
  OctetCells<float> addend;
  Bf16Cells gated;
  OctetCells<float> out;
};

template <int kGroups>
__global__ void __launch_bounds__(kQuadThreads) gated_linear_kernel(GatedLinear p) {
  extern __shared__ uint4 shared[];
  const SharedRows weight = {{shared, kGroups}};
  weight.fill(p.projection, p.outputs, 0, min(p.chunk, p.outputs));
  const Place place(p.rows);
  Operand left[kGroups];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    Octet value[kGroups];
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const GatedOctet q = p.in.load(place.row[i], j * kGroup + place.column);
      for (int e = 0; e < kOctet; ++e) value[j].at[e] = q.value(e);
      squares += dot(value[j], value[j]);
    }
    const bool norm = p.weight != nullptr;
    const float scale = norm ? rsqrtf(Place::row_sum(squares) / (kGroups * kGroup) + p.eps) : 1.0f;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int column = j * kGroup + place.column;
      if (norm) {
        const Octet w = Bf16Cells::load_vector(p.weight, column, 0);
        for (int e = 0; e < kOctet; ++e) value[j].at[e] *= scale * w.at[e];
      }
      left[j].row[i] = rounded(value[j]);
    }
  }
  // Not before, where they would keep the second row's loads waiting.
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      if (!place.counts[i]) continue;
      p.gated.store_units(place.row[i], j * kGroup + place.column, left[j].row[i]);
    }
  }
  for (int first = 0; first < p.outputs; first += p.chunk) {
    const int count = min(p.chunk, p.outputs - first);
    if (first > 0) {
      __syncthreads();
      weight.fill(p.projection, p.outputs, first, count);
    }
    SharedRows::wait();
    __syncthreads();
    for (int q = 0; q < groups_of(count); ++q) {
      const int column = first + q * kGroup + place.column;
      OctetPair added = {};
      if (column < p.outputs && p.addend.present()) {
        for (int i = 0; i < 2; ++i) added.row[i] = p.addend.load(place.row[i], column);
      }
      OctetPair out = product(place, left, weight, q).octets();
      if (column >= p.outputs) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < kOctet; ++e) out.row[i].at[e] += added.row[i].at[e];
        if (place.counts[i]) p.out.store(place.row[i], column, out.row[i]);
      }
    }
  }
}

}  // namespace

void CudaBackend::norm_linear(ConstTokens x, const RowNorm& norm, const uint8_t* mask,
                              ConstTokens weight, Tokens normed, Tokens y) {
  const bool fits = norm.weight != nullptr && are_whole({x}, Element::kFp32) &&
                    are_whole({weight, normed, y}, Element::kBf16) && has_whole_octets(norm.weight);
  const bool done = fits && with_groups<1, 2, 4>(x.columns, [&]<int kGroups>() {
                      const int chunk = rows_in_shared(static_cast<int>(weight.rows), kGroups);
                      launch_quads(norm_linear_kernel<kGroups>, here(), x.rows,
                                   SharedWeight::bytes(chunk, kGroups * kGroup),
                                   NormLinear{x, norm.weight, norm.eps, mask, weight, x.rows,
                                              static_cast<int>(weight.rows), chunk, normed, y});
                    });
  if (!done) Backend::norm_linear(x, norm, mask, weight, normed, y);
}

void CudaBackend::gated_linear(const GatedSum& sum, const RowNorm& norm, ConstTokens weight,
                               ConstTokens addend, Tokens gated, Tokens out) {
  const bool fits = are_whole({addend, out}, Element::kFp32) &&
                    are_whole({sum.y, sum.o, sum.gate, weight, gated}, Element::kBf16) &&
                    has_whole_octets(norm.weight) && has_whole_octets(sum.E);
  const bool done = fits && with_groups<2, 4, 8>(gated.columns, [&]<int kGroups>() {
                      const int chunk = rows_in_shared(static_cast<int>(weight.rows), kGroups);
                      launch_quads(gated_linear_kernel<kGroups>, here(), gated.rows,
                                   SharedWeight::bytes(chunk, kGroups * kGroup),
                                   GatedLinear{GatedCells<Bf16Cells>(sum), norm.weight, norm.eps,
                                               weight, gated.rows, static_cast<int>(weight.rows),
                                               chunk, addend, gated, out});
                    });
  if (!done) Backend::gated_linear(sum, norm, weight, addend, gated, out);
}

}  // namespace joint_recall
