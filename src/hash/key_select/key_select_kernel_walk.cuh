// Walks the keys of a chunk in order, with the best keys so far in the registers of a warp.
#pragma once

#include "hash/key_select/key_select_kernel.cuh"

namespace hax::key_select {

inline constexpr int kWalkWarps = 4;
inline constexpr int kWalkBatches = 16;  // of 32 keys, loaded together

// The best keys so far, ascending: lane l holds places V l ... V l + V - 1. Places from the budget on are held by
// keys that nothing outranks; places not yet taken by keys of order 0.
template <int V>
struct BestKeys {
  static constexpr uint32_t kTop = 0xffffffffu;
  uint32_t order[V], position[V];

  // from: the worst of `kept` ranks, ascending; null for none.
  __device__ BestKeys(const uint64_t* from, int kept, int lane) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int place = lane * V + v;
      const uint64_t rank = from && place < kept ? from[place] : 0;
      order[v] = place < kept ? order_of(rank) : kTop;
      position[v] = position_of(rank);
    }
  }

  // Lets the latest key in if it is better than the worst, which lane 0 then knows to have left; otherwise the
  // key itself leaves.
  __device__ void enter(uint32_t key_order, uint32_t key, const Row& row, int lane) {
    const uint32_t up_order = __shfl_down_sync(0xffffffffu, order[0], 1);
    const uint32_t up_position = __shfl_down_sync(0xffffffffu, position[0], 1);
    if (lane == 0 && order[0] != 0) row.evict(order[0] < key_order ? position[0] : key, key);
    bool below[V + 1];
#pragma unroll
    for (int v = 0; v < V; ++v) below[v] = order[v] < key_order;
    below[V] = lane < kWarp - 1 && up_order < key_order;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const uint32_t next_order = v + 1 < V ? order[(v + 1) % V] : up_order;
      const uint32_t next_position = v + 1 < V ? position[(v + 1) % V] : up_position;
      order[v] = below[v + 1] ? next_order : below[v] ? key_order : order[v];
      position[v] = below[v + 1] ? next_position : below[v] ? key : position[v];
    }
  }

  __device__ uint32_t threshold() const { return __shfl_sync(0xffffffffu, order[0], 0); }

  // ranks: `kept` of them, ascending.
  __device__ void store(uint64_t* ranks, int kept, int lane) const {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (lane * V + v < kept) ranks[lane * V + v] = rank_of(order[v], position[v]);
    }
  }

  // The keys left at a sequence's end stay to its end.
  __device__ void keep(const Row& row) const {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (order[v] != 0 && order[v] != kTop) row.evict(position[v], row.length);
    }
  }
};

// Keys [begin, end) of a row, by a whole warp. Answers whether any was let in.
template <int V>
__device__ bool walk(BestKeys<V>& best, const Row& row, int64_t begin, int64_t end, int lane) {
  bool changed = false;
  for (int64_t first = begin; first < end; first += kWalkBatches * kWarp) {
    float score[kWalkBatches];
#pragma unroll
    for (int i = 0; i < kWalkBatches; ++i) {
      const int64_t j = first + i * kWarp + lane;
      score[i] = j < end ? row.score[j * row.score_stride] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kWalkBatches; ++i) {
      const int64_t batch = first + i * kWarp;
      const int64_t j = batch + lane;
      const uint32_t order = order_of(score[i]);
      const bool enters = j < end && order > best.threshold();
      if (j < end && !enters) row.evict(j, j);
      uint32_t left = __ballot_sync(0xffffffffu, enters);
      changed |= left != 0;
      for (; left != 0; left &= left - 1) {
        const int from = __ffs(static_cast<int>(left)) - 1;
        best.enter(__shfl_sync(0xffffffffu, order, from), static_cast<uint32_t>(batch + from), row,
                   lane);
      }
    }
  }
  return changed;
}

// A warp for every (slot of a chunk, head).
template <int V>
__global__ void __launch_bounds__(kWalkWarps* kWarp)
    walk_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  constexpr int kListed = kWarp * V;
  const int lane = threadIdx.x % kWarp;
  const int64_t index = int64_t{blockIdx.x} * kWalkWarps + threadIdx.x / kWarp;
  if (index >= p.chunks().slots() * p.heads) return;
  const SequenceTiles::Tile chunk = p.chunks().at(index / p.heads);
  if (chunk.begin >= chunk.end) return;
  const Row row(p, chunk.range, index % p.heads);
  const int kept = static_cast<int>(min(p.budget, int64_t{kListed}));
  const uint64_t* before = plan.best + (index + 1) * kListed - kept;
  BestKeys<V> best(chunk.begin > 0 ? before : nullptr, kept, lane);
  walk(best, row, chunk.begin, chunk.end, lane);
  if (chunk.end == row.length) best.keep(row);
}

}  // namespace hax::key_select
