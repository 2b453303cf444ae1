// What backward prepares: delta, the queries' order, the keys' spans.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_bins.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"
#include "device/element.cuh"
#include "device/warp.cuh"

namespace hax::sparse_attention {

inline constexpr int kSetupThreads = 256;
inline constexpr int kSpanThreads = 1024;

// delta, 8 lanes a row.
template <class T>
__global__ void __launch_bounds__(kSetupThreads)
    delta_kernel(const __grid_constant__ BackwardParams p, float* const delta, const bool vectors) {
  constexpr int kLanes = 8;
  const int64_t length = p.sequences.length;
  const int64_t row = (int64_t{blockIdx.x} * kSetupThreads + threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  const bool valid = row < p.sequences.batch * length * p.q_heads;
  const int64_t h = valid ? row % p.q_heads : 0, t = valid ? row / p.q_heads % length : 0;
  const int64_t b = valid ? row / p.q_heads / length : 0;
  float sum = 0.0f;
  if (valid) {
    const T* const o = p.o.at<const T>(b, t, h);
    const T* const d_o = p.d_o.at<const T>(b, t, h);
    if (vectors) {
      constexpr int V = device::kVectorElements<T>;
      for (int d = lane * V; d < p.d_v; d += kLanes * V) {
        float x[V], y[V];
        device::unpack(x, device::load_packed<T, V>(o + d));
        device::unpack(y, device::load_packed<T, V>(d_o + d));
#pragma unroll
        for (int v = 0; v < V; ++v) sum += x[v] * y[v];
      }
    } else {
      for (int64_t d = lane; d < p.d_v; d += kLanes) {
        sum += device::to_float(o[d * p.o.stride[3]]) * device::to_float(d_o[d * p.d_o.stride[3]]);
      }
    }
  }
  sum = device::warp_sum<kLanes>(sum);
  if (!valid || lane != 0) return;
  if (p.dlse) sum -= *p.dlse.at<const float>(b, h, t);
  delta[(b * p.q_heads + h) * length + t] = sum;
}

// Sorts the queries of each bin by position, so that sums don't depend on the order in which threads came. A thread
// finds the place of one query. Bins of more than kLargestBin queries stay as they are unless that is asked for.
__global__ void __launch_bounds__(kSetupThreads)
    sort_bins_kernel(const __grid_constant__ BackwardParams p,
                     const __grid_constant__ CudaBackwardPlan plan) {
  constexpr int32_t kLargestBin = 1024;
  const int64_t length = p.sequences.length;
  const int64_t element = int64_t{blockIdx.x} * kSetupThreads + threadIdx.x;
  if (element >= p.sequences.batch * p.q_heads * length) return;
  const int64_t query_row = element / length, place = element % length;
  const int64_t row = query_row / p.q_heads, head = query_row % p.q_heads;
  const int64_t s = p.sequences.sequence_of(row, place);
  const Sequences::Range range = p.sequences.range(s);
  const int32_t* const order = plan.indices.query_order + query_row * length;
  const int32_t i = order[place];
  const int32_t end =
      clamp_index(*p.pattern.end.at<const int32_t>(row, head, range.begin + i), range.length);
  const Bins bins(p, plan.indices, query_row, s, range);
  const int32_t first = bins.begin(end / kBinEnds), last = bins.begin(end / kBinEnds + 1);
  int32_t at = static_cast<int32_t>(place - range.begin);
  if (last - first <= kLargestBin || p.deterministic) {
    at = first;
    for (int32_t x = first; x < last; ++x) at += order[range.begin + x] < i ? 1 : 0;
  }
  plan.sorted_queries[query_row * length + range.begin + at] = i;
}

// Sum over the block's earlier warps, and over all of them; `value` is alike in a warp.
struct BlockSum {
  int32_t before, all;
};
__device__ inline BlockSum add_warps(int32_t value, int32_t* warp_sums) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  if (lane == 0) warp_sums[warp] = value;
  __syncthreads();
  const int32_t own = warp_sums[lane];
  const int32_t all = __reduce_add_sync(0xffffffffu, own);
  const int32_t before = __reduce_add_sync(0xffffffffu, lane < warp ? own : 0);
  __syncthreads();
  return {before, all};
}

// Sum over the earlier lanes; `all` becomes that of all of them.
__device__ inline int32_t add_lanes(int32_t value, int32_t& all) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int32_t sum = value;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int32_t other = __shfl_up_sync(0xffffffffu, sum, d);
    if (lane >= d) sum += other;
  }
  all = __shfl_sync(0xffffffffu, sum, 31);
  return sum - value;
}

// Gives the keys of one head of one sequence their rows. A block takes a head of a sequence.
__global__ void __launch_bounds__(kSpanThreads)
    spans_kernel(const __grid_constant__ BackwardParams p,
                 const __grid_constant__ CudaBackwardPlan plan) {
  constexpr int kKeys = 8;                // of a thread
  constexpr int32_t kMostRows = 1 << 16;  // of a key; sums of them stay small
  static_assert(kKeys * 32 == kChunkKeys);
  __shared__ int32_t warp_sums[32];
  const int64_t s = blockIdx.x / p.k_heads, head = blockIdx.x % p.k_heads;
  const Sequences::Range range = p.sequences.range(s);
  if (range.length <= plan.dense_length) return;
  const PatternView view(p.pattern, range, head);
  const int64_t key_row = range.row * p.k_heads + head, length = p.sequences.length;
  const Tiling chunks{kChunkKeys};
  int32_t* const reaches = plan.chunk_reach + key_row * chunks.places(p.sequences) +
                           chunks.first_place(p.sequences, s, range.begin);
  int32_t* const first_row = plan.first_row + key_row * length + range.begin;
  int32_t* const direct_keys = plan.direct_keys + key_row * length + range.begin;
  // Sequences share a row's rows by length.
  const int64_t limit = (range.begin + range.length) * plan.row_count / length;
  int64_t next_row = range.begin * plan.row_count / length;
  int32_t direct_count = 0;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint32_t earlier = (1u << lane) - 1;
  for (int64_t base = 0; base < range.length; base += kSpanThreads * kKeys) {
    // A warp takes a chunk, 32 keys at a time.
    const int64_t first = base + threadIdx.x / 32 * kChunkKeys;
    int32_t wanted[kKeys], before[kKeys], evictions[kKeys], total = 0, reach = 0;
#pragma unroll
    for (int n = 0; n < kKeys; ++n) {  // all are asked for before any is waited for
      evictions[n] =
          read_eviction(view, static_cast<int32_t>(min(first + n * 32 + lane, range.length - 1)));
    }
#pragma unroll
    for (int n = 0; n < kKeys; ++n) {
      wanted[n] = kNoRows;
      before[n] = total;
      const auto j = static_cast<int32_t>(first) + n * 32 + lane;
      if (first + n * 32 + lane < range.length) {
        const int32_t end = reach_of(view, j, evictions[n]);
        if (end > j) {
          reach = max(reach, end);
          const int32_t rows = ((end - 1) >> plan.stretch_log2) - (j >> plan.stretch_log2) + 1;
          wanted[n] = end - j <= plan.short_span || rows > kMostRows ? kDirect : rows;
        }
      }
      if (!__any_sync(0xffffffffu, wanted[n] > 0)) continue;
      int32_t all;
      before[n] += add_lanes(max(wanted[n], 0), all);
      total += all;
    }
    reach = __reduce_max_sync(0xffffffffu, reach);
    if (lane == 0 && first < range.length) reaches[first / kChunkKeys] = reach;
    if (!plan.first_row) continue;
    const BlockSum rows = add_warps(total, warp_sums);
    int32_t direct = 0;
#pragma unroll
    for (int n = 0; n < kKeys; ++n) {
      const int64_t row = next_row + rows.before + before[n];
      if (wanted[n] > 0) {
        wanted[n] = row + wanted[n] <= limit ? static_cast<int32_t>(row) : kDirect;
      }
      if (first + n * 32 + lane < range.length) first_row[first + n * 32 + lane] = wanted[n];
      direct += __popc(__ballot_sync(0xffffffffu, wanted[n] == kDirect));
    }
    const BlockSum directs = add_warps(direct, warp_sums);
    int32_t at = direct_count + directs.before;
#pragma unroll
    for (int n = 0; n < kKeys; ++n) {
      const uint32_t votes = __ballot_sync(0xffffffffu, wanted[n] == kDirect);
      if (wanted[n] == kDirect) {
        direct_keys[at + __popc(votes & earlier)] = static_cast<int32_t>(first) + n * 32 + lane;
      }
      at += __popc(votes);
    }
    next_row += rows.all;
    direct_count += directs.all;
  }
  if (threadIdx.x == 0 && plan.direct_count) plan.direct_count[blockIdx.x] = direct_count;
}

}  // namespace hax::sparse_attention
