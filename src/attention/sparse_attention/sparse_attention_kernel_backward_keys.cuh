// dk and dv: a block keeps keys and streams the queries that attend them.
#pragma once

#include <new>

#include "attention/sparse_attention/sparse_attention_kernel_backward_bins.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_spans.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_tile.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_walk.cuh"

namespace hax::sparse_attention {

template <class S>
struct KeysShared : BackwardShared<S> {
  WalkShared<S::kThreads> walk;
  alignas(16) char head[sizeof(QueryHead<typename S::T>)];  // the query head at hand
  int32_t first_row[S::kStay];                              // of a key's rows; kNoRows: none
  int32_t row_count[S::kStay];
};

// One key head of one sequence and a block's share of it.
template <class S>
struct KeysTask {
  const BackwardParams& p;
  const BackwardLaunch& launch;
  const TileRange& tile;
  int64_t head;
  const PatternView& view;
  KeysShared<S>& shared;

  __device__ int64_t key_row() const { return tile.range.row * p.k_heads + head; }
  template <class E>
  __device__ E* of_keys(E* per_key) const {  // (B Hk, L)
    return per_key + key_row() * p.sequences.length + tile.range.begin;
  }
  __device__ float* rows() const {
    return launch.plan.rows + key_row() * launch.plan.row_count * launch.plan.row_width;
  }
};

// Marks of key n of the group; `keys`: the list it comes from, if it does.
template <class S>
__device__ void set_group_key(const KeysTask<S>& t, const int32_t* keys, int n, int count) {
  auto& shared = t.shared;
  const CudaBackwardPlan& plan = t.launch.plan;
  shared.first_row[n] = kNoRows;
  if (n >= count) return store_mark(shared.keys[0], n, Key{});
  const auto x = static_cast<int32_t>(t.tile.first) + n;
  if (t.launch.pass == BackwardPass::order) {
    const int32_t j = t.view.ordered(x);
    store_mark(shared.keys[0], n, Key{j, 0, x});
    if (plan.first_row) {
      const int32_t row = t.of_keys(plan.first_row)[j];
      shared.first_row[n] = row;
      if (row >= 0) shared.row_count[n] = rows_of(t.view, plan, j);
    }
    return;
  }
  const int32_t j = keys ? keys[n] : x;
  store_mark(shared.keys[0], n, read_key(t.view, j));
  atomicMin(&shared.least, j);
  atomicMax(&shared.greatest, t.launch.rule == PairRule::either ? t.view.length : t.view.reach(j));
  if (t.launch.pass == BackwardPass::stretch) {
    shared.first_row[n] =
        t.of_keys(plan.first_row)[j] +
        static_cast<int32_t>((t.tile.first >> plan.stretch_log2) - (j >> plan.stretch_log2));
  }
}

// The queries that the group's keys may meet: positions, or places in their order.
struct QueryInterval {
  int32_t begin, end;
};
template <class S>
__device__ QueryInterval queries_of_group(const KeysTask<S>& t, int64_t q_head) {
  if (t.launch.pass == BackwardPass::order) {
    const CudaIndices& indices = t.launch.plan.indices;
    const int64_t query_row = t.tile.range.row * t.p.q_heads + q_head;
    const Bins bins(t.p, indices, query_row, t.tile.s, t.tile.range);
    const int64_t last_end =
        min(t.tile.last - 1 + indices.longest_range[query_row], t.tile.range.length);
    return {bins.begin((t.tile.first + 1) / kBinEnds), bins.begin(last_end / kBinEnds + 1)};
  }
  QueryInterval interval{t.shared.least, t.shared.greatest};
  if (t.launch.pass == BackwardPass::stretch) {
    interval.begin = max(interval.begin, static_cast<int32_t>(t.tile.first));
    interval.end = min(interval.end, static_cast<int32_t>(t.tile.last));
  }
  return interval;
}

// The first query at or behind x that one of the group's keys may serve.
template <class S>
__device__ int32_t next_query(const KeysTask<S>& t, int32_t x) {
  if (t.launch.pass != BackwardPass::direct && t.launch.pass != BackwardPass::stretch) return x;
  const auto& keys = t.shared.keys[0];
  int32_t least = INT32_MAX;
  for (int n = static_cast<int>(threadIdx.x % 32); n < S::kStay; n += 32) {
    const int32_t j = keys.position[n];
    if (j >= 0 && (x <= j || static_cast<uint32_t>(x - j) < keys.span[n])) {
      least = min(least, max(j, x));
    }
  }
  return __reduce_min_sync(0xffffffffu, least);
}

// Neighbours of a key's row of dk or dv.
template <class S>
__device__ void write_pair(const KeysTask<S>& t, const TileRowsView<typename S::T>& out,
                           int64_t first_column, int row, int column, float2 sum) {
  const CudaBackwardPlan& plan = t.launch.plan;
  const int32_t first_row = t.shared.first_row[row];
  if (first_row >= 0) {
    float* at = t.rows() + first_row * plan.row_width + first_column + column;
    if (t.launch.pass == BackwardPass::stretch) {
      *reinterpret_cast<float2*>(at) = sum;
      return;
    }
    for (int r = 0; r < t.shared.row_count[row]; ++r, at += plan.row_width) {
      const float2 share = *reinterpret_cast<const float2*>(at);
      sum.x += share.x;
      sum.y += share.y;
    }
  }
  store_pair(out, t.launch.add, t.shared.keys[0].position[row], column, sum.x, sum.y);
}

template <class S>
__device__ void write_group(const KeysTask<S>& t, BackwardTile<S, true>& sums) {
  constexpr int kWarps = S::kThreads / 32;
  const BackwardParams& p = t.p;
#pragma unroll 1
  for (const bool values : {false, true}) {
    const Tensor& out = values ? p.dv : p.dk;
    if (!out) continue;
    const float* const staged = values ? sums.stage2(1.0f) : sums.stage1(p.scale);
    const int stride = values ? S::kStride2 : S::kStride1;
    const TileRowsView<typename S::T> rows(out, t.tile.range, t.head,
                                           values ? t.launch.access.dv : t.launch.access.dk);
#pragma unroll 1
    for (auto row = static_cast<int>(threadIdx.x / 32); row < S::kStay; row += kWarps) {
      if (t.shared.keys[0].position[row] < 0) continue;
#pragma unroll 1
      for (auto c = static_cast<int>(threadIdx.x % 32 * 2); c < rows.width; c += 64) {
        write_pair(t, rows, values ? t.launch.plan.v_column : 0, row, c,
                   *reinterpret_cast<const float2*>(staged + row * stride + c));
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kKeysBlocks)
    keys_kernel(const __grid_constant__ BackwardParams p,
                const __grid_constant__ BackwardLaunch launch) {
  using T = typename S::T;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<KeysShared<S>*>(memory);
  const CudaBackwardPlan& plan = launch.plan;
  const Tiling tiling{launch.pass == BackwardPass::stretch ? int64_t{1} << plan.stretch_log2
                                                           : int64_t{S::kStay}};
  const BlockPlace at(blockIdx.x, p.k_heads, launch.places);
  const int64_t head = at.head;
  const TileRange tile = find_tile(p.sequences, tiling, at.row, at.place);
  if (tile.first >= tile.last || !launch.takes(tile.range.length)) return;
  const PatternView view = view_of(p, plan, tile.range, head);
  const KeysTask<S> t{p, launch, tile, head, view, shared};

  // The keys: neighbours, or lists of them.
  const int32_t* list = nullptr;
  int listed = static_cast<int>(tile.last - tile.first);
  KeyWalkInStretch<S::kThreads> walk(shared.walk, p, plan, tile, head, view);
  if (launch.pass == BackwardPass::direct) {
    list = t.of_keys(plan.direct_keys) + tile.first;
    listed = static_cast<int>(
        min(int64_t{listed}, plan.direct_count[tile.s * p.k_heads + head] - tile.first));
  } else if (launch.pass == BackwardPass::stretch) {
    walk.start(static_cast<int32_t>(tile.first), static_cast<int32_t>(tile.last), true);
    list = shared.walk.keys;
    listed = walk.fill();
  }

  StepOptions options{launch.rule, p.scale * device::kLog2E, static_cast<bool>(p.dk),
                      static_cast<bool>(p.dv), false};
  BackwardTile<S, true> sums(shared);
  for (int group = 0; group < listed;) {
    const int count = min(listed - group, S::kStay);
    if (threadIdx.x == 0) {
      shared.least = INT32_MAX;
      shared.greatest = 0;
    }
    __syncthreads();
#pragma unroll 1
    for (int n = static_cast<int>(threadIdx.x); n < S::kStay; n += S::kThreads) {
      set_group_key(t, list ? list + group : nullptr, n, count);
    }
    __syncthreads();
    const auto key_at = [&](int n) { return shared.keys[0].position[n]; };
    load_tile<S::kThreads, S::kStay, S::kQk, S::kStride1>(
        shared.a1, TileRowsView<const T>(p.k, tile.range, head, launch.access.k), key_at);
    load_tile<S::kThreads, S::kStay, S::kV, S::kStride2>(
        shared.a2, TileRowsView<const T>(p.v, tile.range, head, launch.access.v), key_at);

    options.careful = false;
    for (;;) {
      sums.clear();
      for (int64_t h = head * p.group(); h < (head + 1) * p.group(); ++h) {
        const QueryInterval interval = queries_of_group(t, h);
        const auto& query_head = *reinterpret_cast<const QueryHead<T>*>(shared.head);
        __syncthreads();
        if (threadIdx.x == 0) new (shared.head) QueryHead<T>(p, plan, tile.range, h);
        __syncthreads();
        const auto query_at = [&](int32_t x) {
          if (x >= interval.end) return -1;
          return launch.pass == BackwardPass::order ? __ldg(query_head.order + x) : x;
        };
        const auto fetch_rows = [&](int32_t x, int stage) {
          const auto at = [&](int n) { return query_at(x + n); };
          load_tile<S::kThreads, S::kStreamed, S::kQk, S::kStride1>(
              shared.b1[stage % S::kTiles],
              TileRowsView<const T>(p.q, query_head.q, launch.access.q), at);
          load_tile<S::kThreads, S::kStreamed, S::kV, S::kStride2>(
              shared.b2[stage % S::kTiles],
              TileRowsView<const T>(p.d_o, query_head.d_o, launch.access.d_o), at);
          device::commit_copies();
        };
        const auto n = static_cast<int>(threadIdx.x);
        const bool marks = n < S::kStreamed;
        const auto fetch_mark = [&](int32_t x) {
          return query_head.mark(p, view.length, marks ? query_at(x + n) : -1);
        };
        if (interval.begin < interval.end) {
          fetch_rows(interval.begin, 0);
          const QueryMark mark = fetch_mark(interval.begin);
          if (marks) store_mark(shared.queries[0], n, mark);
        }
        int stage = 0;
        for (int32_t x = interval.begin; x < interval.end;) {
          device::wait_for_copies<0>();
          __syncthreads();
          const int32_t next = next_query(t, x + S::kStreamed);
          const bool more = next < interval.end;
          QueryMark mark;
          if (more) {
            if constexpr (S::kTiles == 2) fetch_rows(next, stage ^ 1);
            mark = fetch_mark(next);
          }
          sums.step(options, stage, [&] {
            fetch_rows(x, stage);
            device::wait_for_copies<0>();
            __syncthreads();
          });
          stage ^= 1;
          if constexpr (S::kTiles == 1) {
            __syncthreads();
            if (more) fetch_rows(next, stage);
          }
          if (more && marks) store_mark(shared.queries[stage], n, mark);
          x = next;
        }
      }
      if (options.careful || sums.finite()) break;
      options.careful = true;
    }
    write_group(t, sums);

    group += count;
    if (group >= listed && launch.pass == BackwardPass::stretch) {
      listed = walk.fill();
      group = 0;
    }
  }
}

}  // namespace hax::sparse_attention
