// What the two kernels of ssd's backward that make gradients share: sums over a unit's tokens by which those of dt and
// A are found. Token i's exponent dt A is part of the decays between all tokens s < i and t >= i.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

HAX_EVERYWHERE constexpr int at_most(int a, int b) { return a < b ? a : b; }
HAX_EVERYWHERE constexpr int at_least(int a, int b) { return a > b ? a : b; }

// The neighbours of a fragment.
template <class T>
__device__ void load_pair(float (&to)[2], const T* from) {
  const auto packed = *reinterpret_cast<const device::Packed<T, 2>*>(from);
  device::unpack(to, packed);
}

// Sums over the eight lanes that have the same columns of a fragment, Count of them, at most 8. A lane has in values[0]
// that of the column whose number is returned; the first 4 Count lanes have different ones.
template <int Count>
__device__ int sum_over_rows(float (&values)[Count], int lane) {
  static_assert(Count == 4 || Count == 8);
  int column = 0;
#pragma unroll
  for (int step = 0; step < 3; ++step) {
    const int distance = 4 << step, half = Count >> (step + 1);
    if (half == 0) {
      values[0] += __shfl_xor_sync(0xffffffffu, values[0], distance);
      continue;
    }
    const bool upper = lane & distance;
    if (upper) column += half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float give = upper ? values[i] : values[i + half];
      const float keep = upper ? values[i + half] : values[i];
      values[i] = keep + __shfl_xor_sync(0xffffffffu, give, distance);
    }
  }
  return column;
}

// Tokens of a chunk as a lane of the warp that handles their sums has them.
template <class S>
struct LaneTokens {
  static constexpr int kCount = S::kTokens / device::kWarp;
  static_assert(kCount * device::kWarp == S::kTokens);
};

// Makes of values their sums over this and all later tokens of the chunk.
template <int Count>
__device__ void sum_later(float (&values)[Count], int lane) {
  float all = 0.0f;
#pragma unroll
  for (int i = 0; i < Count; ++i) all += values[i];
  float after = all;
#pragma unroll
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const float next = __shfl_down_sync(0xffffffffu, after, distance);
    if (lane + distance < device::kWarp) after += next;
  }
  after = __shfl_down_sync(0xffffffffu, after, 1);
  if (lane == device::kWarp - 1) after = 0.0f;
#pragma unroll
  for (int i = Count - 1; i >= 0; --i) values[i] = after += values[i];
}

// Makes of values their sums over all earlier tokens, without this one.
template <int Count>
__device__ void sum_earlier(float (&values)[Count], int lane) {
  float all = 0.0f;
#pragma unroll
  for (int i = 0; i < Count; ++i) all += values[i];
  float before = all;
#pragma unroll
  for (int distance = 1; distance < device::kWarp; distance *= 2) {
    const float last = __shfl_up_sync(0xffffffffu, before, distance);
    if (lane >= distance) before += last;
  }
  before = __shfl_up_sync(0xffffffffu, before, 1);
  if (lane == 0) before = 0.0f;
#pragma unroll
  for (int i = 0; i < Count; ++i) {
    const float value = values[i];
    values[i] = before;
    before += value;
  }
}

// A unit's dt and exponents, and its head's row of CudaBackwardPlan::decays.
template <class S>
struct StepRows {
  static constexpr int kCount = (S::kExact ? 3 : 2) * S::kTokens;
  float values[kCount];
  float head[4];
  __device__ float A() const { return head[2]; }
  __device__ float D() const { return head[3]; }
};

template <class S>
__device__ void fetch_steps(Team<device::kWarp> team, StepRows<S>& to, const CudaBackwardPlan& plan,
                            int64_t at) {
  fetch_bytes(team, to.values, plan.steps + at * 3 * S::kTokens, sizeof(to.values));
  fetch_bytes(team, to.head, plan.decays + at * 4, sizeof(to.head));
}

// Leaves a part of the gradients of dt and A: dexponent of each token's dt A, direct of its dt elsewhere.
template <class S>
__device__ void store_step_gradients(const BackwardParams& p, const CudaBackwardPlan& plan,
                                     int part, int64_t place, const Unit& unit,
                                     const float (&dexponent)[LaneTokens<S>::kCount],
                                     const float (&direct)[LaneTokens<S>::kCount],
                                     const StepRows<S>& steps, int lane) {
  constexpr int K = LaneTokens<S>::kCount;
  const int64_t row = part * plan.slices + unit.slice(S::kWidth);
  float* const to =
      plan.step_sums + ((row * plan.chunks.count + place) * p.heads + unit.head) * S::kTokens;
  float sums[K], dA = 0.0f;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    sums[i] = steps.A() * dexponent[i] + direct[i];
    dA += dexponent[i] * steps.values[lane * K + i];
  }
  device::store_packed<float, K>(to + lane * K, sums);
  dA = device::warp_sum(dA);
  const int64_t units = plan.units(p.heads);
  if (lane == 0) plan.dA[(part * plan.chunks.count + place) * units + unit.index] = dA;
}

// Exponent from the chunk's start to behind token t, less that to behind token s; s = -1: the start. steps: as in
// CudaBackwardPlan.
template <class S>
__device__ float exponent(const float* steps, int t, int s) {
  const float* const high = steps + S::kTokens;
  float difference = high[t] - (s < 0 ? 0.0f : high[s]);
  if constexpr (S::kExact) {
    const float* const low = high + S::kTokens;
    difference += low[t] - (s < 0 ? 0.0f : low[s]);
  }
  return difference;
}

// Rows of B, C and the like of a chunk.
template <class S, int kThreads>
__device__ void fetch_group_rows(Team<kThreads> team, typename S::T* to, const Tensor& from,
                                 bool vectors, const ChunkAt& chunk, int64_t group, int states) {
  fetch<S::kTokens, S::kStates, S::kStateRow>(
      team, to,
      token_rows<typename S::T>(from, vectors, chunk.sequence.row, chunk.token(), chunk.tokens,
                                group, 0, states));
}

// Columns of rows that are `step` apart, in pairs where `pairs` says that they can be stored so.
template <class E, class Tile>
__device__ void store_group_rows(Tile& tile, E* to, int64_t step, int64_t column_step, bool pairs,
                                 int rows, int columns, int row, int column) {
  to += row * step;
  tile.for_each_pair([&](float a, float b, int t, int n) {
    if (row + t >= rows || column + n >= columns) return;
    E* const at = to + t * step;
    n += column;
    if (pairs) {
      const float pair[] = {a, b};
      return device::store_packed<E, 2>(at + n, pair);
    }
    at[n * column_step] = device::from_float<E>(a);
    if (n + 1 < columns) at[(n + 1) * column_step] = device::from_float<E>(b);
  });
}

// A chunk's part of dB (which = 0) or dC (1): to its place among the shares or, where there is one, to the tensor. The
// tile starts at (row, column).
template <class S, class Tile>
__device__ void store_group_gradient(Tile& tile, const BackwardParams& p,
                                     const CudaBackwardPlan& plan, const BackwardAccess& access,
                                     const ChunkAt& chunk, int64_t group, int64_t share, int which,
                                     int row, int column) {
  const Tensor& to = which ? p.dC : p.dB;
  if (!to) return;
  const int64_t sequence_row = chunk.sequence.row, token = chunk.token();
  const int states = static_cast<int>(p.states);
  if (plan.gradients) {
    const int64_t place = ((share * p.batch + sequence_row) * p.length + token) * p.groups + group;
    store_group_rows(tile, plan.gradients + (place * 2 + which) * states, p.groups * 2 * states, 1,
                     states % 2 == 0, chunk.tokens, states, row, column);
  } else {
    store_group_rows(tile, to.at<typename S::T>(sequence_row, token, group, 0), to.stride[1],
                     to.stride[3], which ? access.dC : access.dB, chunk.tokens, states, row,
                     column);
  }
}

// The units of a block, and its chunk. A block for every (chunk, group, share), shares fastest.
template <class S>
struct GradientBlock {
  ChunkAt chunk;
  int64_t group, share, first, last;
  __device__ GradientBlock(const BackwardParams& p, const CudaBackwardPlan& plan)
      : chunk(p.sequences, {S::kTokens, plan.chunks.count},
              blockIdx.x / (narrow(plan.shares) * narrow(p.groups))),
        group(blockIdx.x / narrow(plan.shares) % narrow(p.groups)),
        share(blockIdx.x % narrow(plan.shares)) {
    const uint32_t members = narrow(plan.units(p.heads)) / narrow(p.groups);
    const uint32_t each = members / narrow(plan.shares), rest = members % narrow(plan.shares);
    first = group * members + share * each + min(share, int64_t{rest});
    last = first + each + (share < rest);
  }
  // Where the block has units' sums in a matrix (chunks, units, columns) of the workspace.
  __device__ void clear(float* to, int64_t units, int64_t columns) const {
    const int64_t end = (chunk.place * units + last) * columns;
    for (int64_t i = (chunk.place * units + first) * columns + threadIdx.x; i < end;
         i += blockDim.x) {
      to[i] = 0.0f;
    }
  }
  __device__ int64_t dscores_offset(const CudaBackwardPlan& plan, int64_t groups) const {
    return ((share * plan.chunks.count + chunk.place) * groups + group) * S::kTokens * S::kTokens;
  }
};

}  // namespace hax::ssd
