// Moving of rows, random numbers, conversions.
#include <cuda_bf16.h>

#include "model/cuda_rows.cuh"
#include "model/random_block.hpp"

namespace joint_recall {
namespace {

using namespace cuda_rows;

struct GatherRows {
  ConstMatrix table;
  const int32_t* index;
  Matrix out;
  __device__ void operator()(int64_t r, int64_t c) const {
    out.data[r * out.stride + c] = table.data[index[r] * table.stride + c];
  }
};

struct ScatterRows {
  ConstMatrix source;
  const int32_t* index;
  Matrix target;
  __device__ void operator()(int64_t r, int64_t c) const {
    target.data[index[r] * target.stride + c] = source.data[r * source.stride + c];
  }
};

// What one chunk of rows adds to a row of the table: a block for each pair. The table is small, so that going
// through all indices once for each of its rows costs less than sorting them.
constexpr int64_t kScatterChunk = 2048;

__global__ void scatter_add_kernel(ConstMatrix d_out, const int32_t* index, int64_t table_rows,
                                   float* partial) {
  __shared__ int32_t matches[kScatterChunk];
  __shared__ int counts[kThreads / kWarp];
  const int64_t table_row = blockIdx.x % table_rows, chunk = blockIdx.x / table_rows;
  const int64_t first = chunk * kScatterChunk;
  const int count = static_cast<int>(min(kScatterChunk, d_out.rows - first));
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int found = 0;  // by all warps, in the order of the rows
  for (int start = 0; start < count; start += kThreads) {
    const int i = start + static_cast<int>(threadIdx.x);
    const bool match = i < count && index[first + i] == table_row;
    const unsigned votes = __ballot_sync(0xffffffffu, match);
    if (lane == 0) counts[warp] = __popc(votes);
    __syncthreads();
    int before = found, all = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) {
      before += w < warp ? counts[w] : 0;
      all += counts[w];
    }
    if (match) matches[before + __popc(votes & ((1u << lane) - 1))] = i;
    found += all;
    __syncthreads();
  }
  for (int64_t c = threadIdx.x; c < d_out.columns; c += kThreads) {
    float sum = 0.0f;
    for (int m = 0; m < found; ++m) sum += d_out.data[(first + matches[m]) * d_out.stride + c];
    partial[(chunk * table_rows + table_row) * d_out.columns + c] = sum;
  }
}

struct AddScattered {
  const float* partial;
  int64_t chunks;
  Matrix table;
  __device__ void operator()(int64_t r, int64_t c) const {
    float sum = 0.0f;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      sum += partial[(chunk * table.rows + r) * table.columns + c];
    }
    table.data[r * table.stride + c] += sum;
  }
};

struct MaskRows {
  const uint8_t* mask;
  Matrix x;
  __device__ void operator()(int64_t r, int64_t c) const {
    if (mask[r] == 0) x.data[r * x.stride + c] = 0.0f;
  }
};

struct AddMatrix {
  float scale;
  ConstMatrix source;
  Matrix target;
  __device__ void operator()(int64_t r, int64_t c) const {
    target.data[r * target.stride + c] += scale * source.data[r * source.stride + c];
  }
};

struct NegatedExp {
  const float* A_log;
  float* A;
  __device__ void operator()(int64_t, int64_t i) const { A[i] = -expf(A_log[i]); }
};

struct NegatedExpBackward {
  const float *A, *dA;
  float* d_A_log;
  __device__ void operator()(int64_t, int64_t i) const { d_A_log[i] += dA[i] * A[i]; }
};

struct Rope {
  const int32_t* position;
  double theta;
  bool inverse;
  int64_t head_dim;
  Matrix x;
  __device__ void operator()(int64_t r, int64_t pair) const {
    const int64_t half = head_dim / 2, i = pair % half;
    const double frequency =
        pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    double sine, cosine;
    sincos(position[r] * frequency, &sine, &cosine);
    const auto c = static_cast<float>(cosine), s = static_cast<float>(inverse ? -sine : sine);
    float* head = x.data + r * x.stride + pair / half * head_dim;
    const float x1 = head[i], x2 = head[i + half];
    head[i] = x1 * c - x2 * s;
    head[i + half] = x2 * c + x1 * s;
  }
};

struct RandomNormal {
  RandomKey key;
  float* out;
  __device__ void operator()(int64_t, int64_t i) const {
    out[i] = random_numbers::normal(key, static_cast<uint64_t>(i));
  }
};

struct RandomUniform {
  RandomKey key;
  float* out;
  __device__ void operator()(int64_t, int64_t i) const {
    out[i] = random_numbers::uniform(key, static_cast<uint64_t>(i));
  }
};

// Token t's place among its sequence's tokens is the number of those that come before it.
struct TopPositions {
  const float* noise;
  const uint8_t* mask;
  const int32_t* offset;
  int64_t length, count;
  int32_t* pick;
  __device__ void operator()(int64_t s, int64_t t) const {
    const int64_t first = offset != nullptr ? offset[s] : s * length;
    const int64_t size = offset != nullptr ? offset[s + 1] - first : length;
    if (t >= size && t < count) pick[s * count + t] = -1;
    if (t >= size) return;
    const float* draws = noise + first;
    const bool real = mask == nullptr || mask[first + t] != 0;
    const float own = draws[t];
    int64_t before = 0;
    for (int64_t u = 0; u < size && before < count; ++u) {
      const bool other_real = mask == nullptr || mask[first + u] != 0;
      const bool ahead = other_real != real ? other_real : draws[u] != own ? draws[u] > own : u < t;
      before += ahead;
    }
    if (before < count) pick[s * count + before] = static_cast<int32_t>(t);
  }
};

struct ToBf16 {
  ConstMatrix source;
  uint16_t* target;
  __device__ void operator()(int64_t r, int64_t c) const {
    target[r * source.columns + c] =
        __bfloat16_as_ushort(__float2bfloat16_rn(source.data[r * source.stride + c]));
  }
};

struct FromBf16 {
  const uint16_t* source;
  Matrix target;
  __device__ void operator()(int64_t r, int64_t c) const {
    target.data[r * target.stride + c] =
        __uint_as_float(static_cast<uint32_t>(source[r * target.columns + c]) << 16);
  }
};

}  // namespace

void CudaBackend::gather_rows(ConstMatrix table, const int32_t* index, Matrix out) {
  for_elements(stream_, out.rows, out.columns, GatherRows{table, index, out});
}

void CudaBackend::scatter_rows(ConstMatrix source, const int32_t* index, Matrix target) {
  for_elements(stream_, source.rows, source.columns, ScatterRows{source, index, target});
}

void CudaBackend::scatter_add_rows(ConstMatrix d_out, const int32_t* index, Matrix d_table) {
  const int64_t chunks = blocks_for(d_out.rows, kScatterChunk);
  if (chunks == 0 || d_table.rows == 0) return;
  float* partial = partial_sums(chunks * d_table.rows * d_table.columns);
  scatter_add_kernel<<<static_cast<unsigned>(chunks * d_table.rows), kThreads, 0, stream_>>>(
      d_out, index, d_table.rows, partial);
  check_launch("adding rows");
  for_elements(stream_, d_table.rows, d_table.columns, AddScattered{partial, chunks, d_table});
}

void CudaBackend::mask_rows(const uint8_t* mask, Matrix x) {
  for_elements(stream_, x.rows, x.columns, MaskRows{mask, x});
}

void CudaBackend::add(float scale, ConstMatrix source, Matrix target) {
  for_elements(stream_, target.rows, target.columns, AddMatrix{scale, source, target});
}

void CudaBackend::negated_exp(const float* A_log, int64_t count, float* A) {
  for_elements(stream_, 1, count, NegatedExp{A_log, A});
}

void CudaBackend::negated_exp_backward(const float* A, const float* dA, int64_t count,
                                       float* d_A_log) {
  for_elements(stream_, 1, count, NegatedExpBackward{A, dA, d_A_log});
}

void CudaBackend::rope(const int32_t* position, int64_t num_heads, double theta, bool inverse,
                       Matrix x) {
  for_elements(stream_, x.rows, x.columns / 2,
               Rope{position, theta, inverse, x.columns / num_heads, x});
}

void CudaBackend::random_normal(const RandomKey& key, int64_t count, float* out) {
  for_elements(stream_, 1, count, RandomNormal{key, out});
}

void CudaBackend::random_uniform(const RandomKey& key, int64_t count, float* out) {
  for_elements(stream_, 1, count, RandomUniform{key, out});
}

void CudaBackend::top_positions(const float* noise, const uint8_t* mask, const int32_t* offset,
                                int64_t sequences, int64_t length, int64_t count, int32_t* pick) {
  for_elements(stream_, sequences, length > count ? length : count,
               TopPositions{noise, mask, offset, length, count, pick});
}

void CudaBackend::to_bf16(ConstMatrix source, uint16_t* target) {
  for_elements(stream_, source.rows, source.columns, ToBf16{source, target});
}

void CudaBackend::from_bf16(const uint16_t* source, Matrix target) {
  for_elements(stream_, target.rows, target.columns, FromBf16{source, target});
}

}  // namespace joint_recall
