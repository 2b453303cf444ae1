// Backward's kernels: which rows a block keeps, which tiles it streams past them, what it writes.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_tile.cuh"
#include "device/warp.cuh"

namespace hax::sparse_attention {

inline constexpr int kDeltaThreads = 256;

// What all blocks of a launch share.
struct BackwardLaunch {
  BackwardAccess access;
  PairRule rule;
  CudaBackwardPlan plan;
};

// delta, 8 lanes a row.
template <class T>
__global__ void delta_kernel(const __grid_constant__ BackwardParams p,
                             const __grid_constant__ CudaBackwardPlan plan, bool vectors) {
  constexpr int kLanes = 8;
  const int64_t length = p.sequences.length;
  const int64_t row = (int64_t{blockIdx.x} * kDeltaThreads + threadIdx.x) / kLanes;
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
  plan.delta[(b * p.q_heads + h) * length + t] = sum;
}

// key_rank, the inverse of key_order.
__global__ void rank_kernel(const __grid_constant__ BackwardParams p,
                                   const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t length = p.sequences.length;
  const int64_t at = int64_t{blockIdx.x} * kDeltaThreads + threadIdx.x;
  if (at >= p.sequences.batch * p.k_heads * length) return;
  const int64_t t = at % length, h = at / length % p.k_heads, b = at / length / p.k_heads;
  const Sequences::Range range = p.sequences.range(p.sequences.sequence_of(b, t));
  const int32_t j = *p.pattern.key_order.at<const int32_t>(b, h, t);
  if (j >= 0 && j < range.length) {
    plan.key_rank[at - t + range.begin + j] = static_cast<int32_t>(t - range.begin);
  }
}

template <int N>
__device__ void set_query(QueryMarks<N>& marks, int n, const BackwardParams& p,
                          const CudaBackwardPlan& plan, const PatternView& view, int64_t q_head,
                          int32_t i) {
  Query query;
  float lse = 0.0f, delta = 0.0f;
  if (i >= 0) {
    query = view.query(i, q_head);
    const int64_t t = view.range.begin + i;
    lse = *p.lse.at<const float>(view.range.row, q_head, t) * device::kLog2E;
    delta = plan.delta[(view.range.row * p.q_heads + q_head) * p.sequences.length + t];
  }
  marks.position[n] = query.position;
  marks.begin[n] = query.begin;
  marks.count[n] = static_cast<uint32_t>(query.end - query.begin);
  marks.lse[n] = lse;
  marks.delta[n] = delta;
}

template <int N>
__device__ void set_key(KeyMarks<N>& marks, int n, const PatternView& view, int32_t j) {
  marks.position[n] = j;
  marks.span[n] = j >= 0 ? view.span(j, view.life(j)) : 0;
  marks.rank[n] = j >= 0 ? view.rank_of(j) : -1;
}

// Neighbours of an output's row; y only where the row goes on.
template <class T>
__device__ void store_pair(const RowsView<T>& rows, int32_t position, int column, float x, float y) {
  if (position < 0 || column >= rows.width) return;
  T* const at = rows.data + position * rows.stride + column * rows.element_stride;
  if (rows.vectors) {
    const float pair[2] = {x, y};
    device::store_packed<T, 2>(at, pair);
  } else {
    at[0] = device::from_float<T>(x);
    if (column + 1 < rows.width) at[rows.element_stride] = device::from_float<T>(y);
  }
}

template <class S>
__device__ StepOptions options_of(const BackwardParams& p, const BackwardLaunch& launch) {
  return {launch.rule, p.scale * device::kLog2E, static_cast<bool>(p.dq), false, false};
}

// How far keys before `last` reach: no query from here on attends them by their spans.
__device__ inline int32_t reach_of(const Pattern& pattern, int32_t last, int32_t length) {
  const bool window_only = pattern.bits == HAX_PATTERN_SLIDING_WINDOW;
  if (!window_only || pattern.window >= length - last) return length;
  return last - 1 + static_cast<int32_t>(pattern.window);
}

// dk and dv: a block keeps neighbouring keys and streams all queries that attend them.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    keys_kernel(const __grid_constant__ BackwardParams p,
                const __grid_constant__ BackwardLaunch launch) {
  using T = typename S::T;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<BackwardShared<S>*>(memory);
  constexpr Tiling tiling{S::kStay};
  const int64_t head = blockIdx.x % p.k_heads;
  const int64_t places = tiling.places(p.sequences);
  const int64_t place = blockIdx.x / p.k_heads % places;
  const TileRange tile = find_tile(p.sequences, tiling, blockIdx.x / p.k_heads / places, place);
  if (tile.first >= tile.last) return;
  PatternView view(p.pattern, tile.range, head);
  if (launch.plan.key_rank) {
    view.rank = launch.plan.key_rank +
                (tile.range.row * p.k_heads + head) * p.sequences.length + tile.range.begin;
  }
  const auto first = static_cast<int32_t>(tile.first), last = static_cast<int32_t>(tile.last);
  const int32_t end = reach_of(p.pattern, last, view.length);

#pragma unroll 1
  for (int n = static_cast<int>(threadIdx.x); n < S::kStay; n += S::kThreads) {
    set_key(shared.keys, n, view, first + n < last ? first + n : -1);
  }
  __syncthreads();
  load_tile<S::kThreads, S::kStay, S::kQk, S::kStride1>(
      shared.a1, RowsView<const T>(p.k, tile.range, head, launch.access.k), shared.keys.position);
  load_tile<S::kThreads, S::kStay, S::kV, S::kStride2>(
      shared.a2, RowsView<const T>(p.v, tile.range, head, launch.access.v), shared.keys.position);

  StepOptions options{launch.rule, p.scale * device::kLog2E, static_cast<bool>(p.dk),
                      static_cast<bool>(p.dv), false};
  BackwardTile<S, true> sums(shared);
  for (;;) {
    sums.clear();
    for (int64_t h = head * p.group(); h < (head + 1) * p.group(); ++h) {
      const RowsView<const T> q(p.q, tile.range, h, launch.access.q);
      const RowsView<const T> d_o(p.d_o, tile.range, h, launch.access.d_o);
      const auto load = [&] {
        load_tile<S::kThreads, S::kStreamed, S::kQk, S::kStride1>(shared.b1, q,
                                                                  shared.queries.position);
        load_tile<S::kThreads, S::kStreamed, S::kV, S::kStride2>(shared.b2, d_o,
                                                                 shared.queries.position);
        device::commit_copies();
        device::wait_for_copies<0>();
        __syncthreads();
      };
      for (int32_t i = first; i < end; i += S::kStreamed) {
        __syncthreads();
#pragma unroll 1
        for (int n = static_cast<int>(threadIdx.x); n < S::kStreamed; n += S::kThreads) {
          set_query(shared.queries, n, p, launch.plan, view, h, i + n < end ? i + n : -1);
        }
        __syncthreads();
        load();
        sums.step(options, load);
      }
    }
    if (options.careful || sums.finite()) break;
    options.careful = true;
  }

  if (p.dk) {
    const RowsView<T> dk(p.dk, tile.range, head, launch.access.dk);
    sums.each_pair1([&](int row, int column, float x, float y) {
      store_pair(dk, shared.keys.position[row], column, x * p.scale, y * p.scale);
    });
  }
  if (p.dv) {
    const RowsView<T> dv(p.dv, tile.range, head, launch.access.dv);
    sums.each_pair2([&](int row, int column, float x, float y) {
      store_pair(dv, shared.keys.position[row], column, x, y);
    });
  }
}

// dq: a block keeps neighbouring queries and streams all keys that they attend.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    queries_kernel(const __grid_constant__ BackwardParams p,
                   const __grid_constant__ BackwardLaunch launch) {
  using T = typename S::T;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<BackwardShared<S>*>(memory);
  constexpr Tiling tiling{S::kStay};
  const int64_t h = blockIdx.x % p.q_heads, head = h / p.group();
  const int64_t places = tiling.places(p.sequences);
  const int64_t place = blockIdx.x / p.q_heads % places;
  const TileRange tile = find_tile(p.sequences, tiling, blockIdx.x / p.q_heads / places, place);
  if (tile.first >= tile.last) return;
  PatternView view(p.pattern, tile.range, head);
  if (launch.plan.key_rank) {
    view.rank = launch.plan.key_rank +
                (tile.range.row * p.k_heads + head) * p.sequences.length + tile.range.begin;
  }
  const auto first = static_cast<int32_t>(tile.first), last = static_cast<int32_t>(tile.last);
  const bool window_only = p.pattern.bits == HAX_PATTERN_SLIDING_WINDOW;
  const int32_t oldest =
      window_only && first >= p.pattern.window ? first + 1 - static_cast<int32_t>(p.pattern.window)
                                              : 0;

#pragma unroll 1
  for (int n = static_cast<int>(threadIdx.x); n < S::kStay; n += S::kThreads) {
    set_query(shared.queries, n, p, launch.plan, view, h, first + n < last ? first + n : -1);
  }
  __syncthreads();
  load_tile<S::kThreads, S::kStay, S::kQk, S::kStride1>(
      shared.a1, RowsView<const T>(p.q, tile.range, h, launch.access.q), shared.queries.position);
  load_tile<S::kThreads, S::kStay, S::kV, S::kStride2>(
      shared.a2, RowsView<const T>(p.d_o, tile.range, h, launch.access.d_o),
      shared.queries.position);
  const RowsView<const T> k(p.k, tile.range, head, launch.access.k);
  const RowsView<const T> v(p.v, tile.range, head, launch.access.v);
  const auto load = [&] {
    load_tile<S::kThreads, S::kStreamed, S::kQk, S::kStride1>(shared.b1, k, shared.keys.position);
    load_tile<S::kThreads, S::kStreamed, S::kV, S::kStride2>(shared.b2, v, shared.keys.position);
    device::commit_copies();
    device::wait_for_copies<0>();
    __syncthreads();
  };
  StepOptions options{launch.rule, p.scale * device::kLog2E, true, false, false};
  BackwardTile<S, false> sums(shared);
  for (;;) {
    sums.clear();
    for (int32_t j = oldest; j < last; j += S::kStreamed) {
      __syncthreads();
#pragma unroll 1
      for (int n = static_cast<int>(threadIdx.x); n < S::kStreamed; n += S::kThreads) {
        set_key(shared.keys, n, view, j + n < last ? j + n : -1);
      }
      __syncthreads();
      load();
      sums.step(options, load);
    }
    if (options.careful || sums.finite()) break;
    options.careful = true;
  }
  const RowsView<T> dq(p.dq, tile.range, h, launch.access.dq);
  sums.each_pair1([&](int row, int column, float x, float y) {
    store_pair(dq, shared.queries.position[row], column, x * p.scale, y * p.scale);
  });
}

}  // namespace hax::sparse_attention
