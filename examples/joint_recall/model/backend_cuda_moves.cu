// Moving of rows, random numbers.
#include <algorithm>

#include "model/assemble.hpp"
#include "model/cuda_rows.cuh"
#include "model/random_block.hpp"

namespace joint_recall {
namespace {

using namespace cuda_rows;

struct Assemble {
  ItemTokens tokens;
  BatchArrays out;
  __device__ void operator()(int64_t i) const {
    if (i < out.rows) assembling::fill_row(tokens, out, i);
    if (i < out.asked) assembling::fill_asked(tokens, out, i);
  }
};

template <class X, class T>
struct GatherRows {
  X table;
  const int32_t* index;
  T out;
  __device__ void operator()(int64_t r, int c) const { out.store(r, c, table.load(index[r], c)); }
};

template <class T>
struct ScatterRows {
  T source;
  const int32_t* index;
  T target;
  __device__ void operator()(int64_t r, int c) const {
    target.store(index[r], c, source.load(r, c));
  }
};

// Columns of a row of such a matrix: a multiple of what matrix products move at once.
constexpr int64_t kOneHotStep = 8;

template <class T>
struct OneHot {
  const int32_t* index;
  T out;
  __device__ void operator()(int64_t r, int c) const {
    Octet octet;
    for (int i = 0; i < kOctet; ++i) octet.at[i] = index[r] == c + i ? 1.0f : 0.0f;
    out.store(r, c, octet);
  }
};

template <class T>
struct MaskRows {
  const uint8_t* mask;
  T x;
  __device__ void operator()(int64_t r, int c) const {
    if (mask[r] == 0) x.store(r, c, Octet{});
  }
};

template <class T>
struct AddMatrix {
  T source, target;
  __device__ void operator()(int64_t r, int c) const {
    Octet sum = target.load(r, c);
    const Octet addend = source.load(r, c);
    for (int i = 0; i < kOctet; ++i) sum.at[i] += addend.at[i];
    target.store(r, c, sum);
  }
};

struct CopyMatrix {
  AnyCells source, target;
  __device__ void operator()(int64_t r, int c) const { target.store(r, c, source.load(r, c)); }
};

struct NegatedExp {
  const float* A_log;
  float* A;
  __device__ void operator()(int64_t i) const { A[i] = -expf(A_log[i]); }
};

struct NegatedExpBackward {
  const float *A, *dA;
  float* d_A_log;
  __device__ void operator()(int64_t i) const { d_A_log[i] += dA[i] * A[i]; }
};

struct Rope {
  const int32_t* position;
  double theta;
  bool inverse;
  int64_t head_dim, columns;
  Tokens x;
  __device__ float* fp32(int64_t at) const { return static_cast<float*>(x.data) + at; }
  __device__ __nv_bfloat16* bf16(int64_t at) const {
    return static_cast<__nv_bfloat16*>(x.data) + at;
  }
  __device__ float load(int64_t at) const {
    return x.element == Element::kBf16 ? __bfloat162float(*bf16(at)) : *fp32(at);
  }
  __device__ void store(int64_t at, float value) const {
    if (x.element == Element::kBf16) {
      *bf16(at) = __float2bfloat16_rn(value);
    } else {
      *fp32(at) = value;
    }
  }
  __device__ void operator()(int64_t index) const {
    const int64_t r = index / (columns / 2), pair = index % (columns / 2);
    const int64_t half = head_dim / 2, i = pair % half;
    const double frequency =
        pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    double sine, cosine;
    sincos(position[r] * frequency, &sine, &cosine);
    const auto c = static_cast<float>(cosine), s = static_cast<float>(inverse ? -sine : sine);
    const int64_t at = r * x.stride + pair / half * head_dim + i;
    const float x1 = load(at), x2 = load(at + half);
    store(at, x1 * c - x2 * s);
    store(at + half, x2 * c + x1 * s);
  }
};

__device__ RandomKey at_step(RandomKey key, const RandomStep* at) {
  if (at != nullptr) key.step = at->step, key.part = at->part, key.first = at->first;
  return key;
}

struct RandomNormal {
  RandomKey key;
  const RandomStep* at;
  float* out;
  __device__ void operator()(int64_t i) const {
    out[i] = random_numbers::normal(at_step(key, at), static_cast<uint64_t>(i));
  }
};

struct RandomUniform {
  RandomKey key;
  const RandomStep* at;
  float* out;
  __device__ void operator()(int64_t i) const {
    out[i] = random_numbers::uniform(at_step(key, at), static_cast<uint64_t>(i));
  }
};

// A block for each sequence. A token's place among its sequence's is the number of those that come before it.
constexpr int kTopThreads = 512;
constexpr int kTopTile = 4096;
constexpr int kTopStep = 4;  // keys read at once

struct TopPositions {
  const float* noise;
  const uint8_t* mask;
  const int32_t* offset;
  int64_t items, length, count;
  int32_t* pick;

  // Larger ones come first. Noise is not negative, so that its bits are ordered as it is.
  __device__ uint32_t rank_key(int64_t token) const {
    const bool real = mask == nullptr || mask[token] != 0;
    return __float_as_uint(noise[token]) | (real ? 0x80000000u : 0u);
  }
};

__global__ void __launch_bounds__(kTopThreads) top_positions_kernel(TopPositions top) {
  __shared__ __align__(16) uint32_t keys[kTopTile];
  const int64_t s = blockIdx.x;
  const int64_t first = s >= top.items ? 0 : top.offset != nullptr ? top.offset[s] : s * top.length;
  const int64_t size = s >= top.items          ? 0
                       : top.offset != nullptr ? top.offset[s + 1] - first
                                               : top.length;
  int32_t* pick = top.pick + s * top.count;
  for (int64_t i = size + threadIdx.x; i < top.count; i += kTopThreads) pick[i] = -1;
  for (int64_t slab = 0; slab < size; slab += kTopThreads) {
    const int64_t t = slab + threadIdx.x;
    const uint32_t own = t < size ? top.rank_key(first + t) : 0;
    int64_t before = 0;
    for (int64_t tile = 0; tile < size; tile += kTopTile) {
      const int filled = static_cast<int>(min(int64_t{kTopTile}, size - tile));
      if (slab == 0 || size > kTopTile) {
        __syncthreads();
        // Keys of 0 fill up the last step: they come before none.
        for (int u = threadIdx.x; u < (filled + kTopStep - 1) / kTopStep * kTopStep;
             u += kTopThreads) {
          keys[u] = u < filled ? top.rank_key(first + tile + u) : 0;
        }
        __syncthreads();
      }
      // Of equal keys the earlier comes first: those in front of the own one are ahead if not less.
      const int steps = (filled + kTopStep - 1) / kTopStep;
      const int own_step = t < tile             ? -1
                           : t >= tile + filled ? steps
                                                : static_cast<int>(t - tile) / kTopStep;
      const auto* four = reinterpret_cast<const uint4*>(keys);
      int ahead = 0;
#pragma unroll 8
      for (int q = 0; q < own_step; ++q) {
        ahead += four[q].x >= own;
        ahead += four[q].y >= own;
        ahead += four[q].z >= own;
        ahead += four[q].w >= own;
      }
      if (own_step >= 0 && own_step < steps) {
        for (int u = own_step * kTopStep; u < own_step * kTopStep + kTopStep; ++u) {
          ahead += keys[u] > own || (keys[u] == own && tile + u < t);
        }
      }
#pragma unroll 8
      for (int q = own_step + 1; q < steps; ++q) {
        ahead += four[q].x > own;
        ahead += four[q].y > own;
        ahead += four[q].z > own;
        ahead += four[q].w > own;
      }
      before += ahead;
    }
    if (t < size && before < top.count) pick[before] = static_cast<int32_t>(t);
  }
}

}  // namespace

void CudaBackend::assemble(const ItemTokens& tokens, const BatchArrays& out) {
  for_elements(here(), std::max(out.rows, out.asked), Assemble{tokens, out});
}

void CudaBackend::gather_rows(ConstTokens table, const int32_t* index, Tokens out) {
  with_cells({table}, {out}, {}, [&]<class X, class T>() {
    for_octets(here(), out.rows, out.columns, GatherRows<X, T>{table, index, out});
  });
}

void CudaBackend::scatter_rows(ConstTokens source, const int32_t* index, Tokens target) {
  with_cells({}, {source, target}, {}, [&]<class, class T>() {
    for_octets(here(), source.rows, source.columns, ScatterRows<T>{source, index, target});
  });
}

// A product with one row of zeros and a one for each row, which sums in a fixed order and without regard to how
// often an index comes.
void CudaBackend::scatter_add_rows(ConstTokens d_out, const int32_t* index, Matrix d_table) {
  if (d_out.rows == 0 || d_table.rows == 0) return;
  const int64_t width = blocks_for(d_table.rows, kOneHotStep) * kOneHotStep;
  float* scratch = partial_sums(width * d_table.columns + width * d_out.rows);
  const Matrix sums = compact(scratch, width, d_table.columns);
  const Tokens one_hot(scratch + width * d_table.columns, d_out.rows, width, width, d_out.element);
  with_cells({}, {one_hot}, {}, [&]<class, class T>() {
    for_octets(here(), one_hot.rows, width, OneHot<T>{index, one_hot});
  });
  gemm(true, false, one_hot, d_out, {}, sums);
  add(ConstMatrix(compact(scratch, d_table.rows, d_table.columns)), d_table);
}

void CudaBackend::mask_rows(const uint8_t* mask, Tokens x) {
  with_cells({}, {x}, {}, [&]<class, class T>() {
    for_octets(here(), x.rows, x.columns, MaskRows<T>{mask, x});
  });
}

void CudaBackend::add(ConstTokens source, Tokens target) {
  with_cells({}, {source, target}, {}, [&]<class, class T>() {
    for_octets(here(), target.rows, target.columns, AddMatrix<T>{source, target});
  });
}

void CudaBackend::copy(ConstTokens source, Tokens target) {
  for_octets(here(), target.rows, target.columns, CopyMatrix{source, target});
}

void CudaBackend::negated_exp(const float* A_log, int64_t count, float* A) {
  for_elements(here(), count, NegatedExp{A_log, A});
}

void CudaBackend::negated_exp_backward(const float* A, const float* dA, int64_t count,
                                       float* d_A_log) {
  for_elements(here(), count, NegatedExpBackward{A, dA, d_A_log});
}

void CudaBackend::rope(const int32_t* position, int64_t num_heads, double theta, bool inverse,
                       Tokens x) {
  for_elements(here(), x.rows * (x.columns / 2),
               Rope{position, theta, inverse, x.columns / num_heads, x.columns, x});
}

void CudaBackend::random_normal(const RandomKey& key, const RandomStep* at, int64_t count,
                                float* out) {
  for_elements(here(), count, RandomNormal{key, at, out});
}

void CudaBackend::random_uniform(const RandomKey& key, const RandomStep* at, int64_t count,
                                 float* out) {
  for_elements(here(), count, RandomUniform{key, at, out});
}

void CudaBackend::top_positions(const float* noise, const uint8_t* mask, const int32_t* offset,
                                int64_t items, int64_t sequences, int64_t length, int64_t count,
                                int32_t* pick) {
  if (sequences == 0 || count == 0) return;
  top_positions_kernel<<<static_cast<unsigned>(sequences), kTopThreads, 0, here()>>>(
      {noise, mask, offset, items, length, count, pick});
  check_launch("picking positions");
}

}  // namespace joint_recall
