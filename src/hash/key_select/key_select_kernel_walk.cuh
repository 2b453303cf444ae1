// Walks the keys of a chunk in order, with the best keys so far in shared memory. Keys better than
// the worst of those are gathered until there are a few for every lane of a warp; then all lanes find
// out together when each key leaves.
#pragma once

#include "hash/key_select/key_select_kernel.cuh"

namespace hax::key_select {

inline constexpr int kWalkWarps = 4;
inline constexpr int kWalkKeys = 4 * kWarp;  // gone through together
inline constexpr int kWalkAhead = 2;         // so often as many are being loaded
inline constexpr int kWalkWaiting = 160;     // keys wait until there are so many

// The n-th lowest of a mask's bits, counted from 1, which it must have.
__device__ inline int select_bit(uint32_t mask, int n) {
  int place = 0;
#pragma unroll
  for (int width = 16; width > 0; width /= 2) {
    const int below = __popc(mask & ((1u << width) - 1));
    if (n > below) {
      n -= below;
      place += width;
      mask >>= width;
    }
  }
  return place;
}

// Of one warp, in shared memory.
template <int V>
struct WalkMemory {
  uint64_t best[kWarp * V];  // ranks, ascending; zeros for places not yet taken
  uint64_t pending[kWalkWaiting + kWalkKeys];
};

template <int V>
struct Walk {
  const Row& row;
  WalkMemory<V>& memory;
  int kept;  // places in use
  int lane;
  uint32_t threshold;  // order of the worst key
  int waiting;         // keys in memory.pending
  bool changed;        // whether any key came in

  // from: the worst of `kept` ranks, ascending; null for none.
  __device__ Walk(const Row& keys, WalkMemory<V>& shared, const uint64_t* from, int places, int l)
      : row(keys), memory(shared), kept(places), lane(l), waiting(0), changed(false) {
    for (int i = lane; i < kept; i += kWarp) memory.best[i] = from ? from[i] : 0;
    __syncwarp();
    threshold = order_of(memory.best[0]);
  }

  // Lets in 32 of the keys that wait, from the `taken`-th on, later ones after earlier ones. A key
  // leaves with the arrival of the last of as many better ones as there are keys up to it, so each
  // lane collects which of the new keys outrank its own.
  __device__ void absorb(int taken) {
    changed = true;
    const uint64_t own = taken + lane < waiting ? memory.pending[taken + lane] : 0;
    const uint32_t order = order_of(own), position = position_of(own);
    uint64_t held[V];
    uint32_t above_held[V] = {}, above = 0, not_below = 0;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int place = v * kWarp + lane;
      held[v] = place < kept ? memory.best[place] : ~uint64_t{0};
    }
#pragma unroll
    for (int s = 0; s < kWarp; ++s) {
      const uint32_t other = __shfl_sync(0xffffffffu, order, s);
      if (other > order) above |= 1u << s;
      if (other >= order) not_below |= 1u << s;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (other > order_of(held[v])) above_held[v] |= 1u << s;
      }
    }
    above |= not_below & ((1u << lane) - 1);  // of equal ones the earlier
    int below = 0;                            // keys held that the own key outranks
#pragma unroll
    for (int step = kWarp * V; step > 0; step /= 2) {
      if (below + step <= kept && order_of(memory.best[below + step - 1]) < order) below += step;
    }
    const int better = __popc(above);
    // A key whose time has come before it came never enters: it leaves as it comes.
    const bool leaves = better >= below;
    const int last = leaves && below > 0 ? max(select_bit(above, below), lane) : lane;
    const uint32_t when = __shfl_sync(0xffffffffu, position, last);
    if (order != 0 && leaves) row.evict(position, when);
    __syncwarp();
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int place = v * kWarp + lane, better_now = __popc(above_held[v]);
      const bool gone = place < kept && better_now > place;
      if (v == 0) {  // no other place can be reached by 32 keys
        const int arrival = gone ? select_bit(above_held[v], place + 1) : lane;
        const uint32_t then = __shfl_sync(0xffffffffu, position, arrival);
        if (gone && held[v] != 0) row.evict(position_of(held[v]), then);
      }
      if (place < kept && !gone) memory.best[place - better_now] = held[v];
    }
    if (order != 0 && !leaves) memory.best[below - 1 - better] = own;
    __syncwarp();
    threshold = order_of(memory.best[0]);
  }

  // Lets in whole warps of the keys that wait, or all of them.
  __device__ void absorb_all(bool all) {
    int taken = 0;
    __syncwarp();
#pragma unroll 1
    for (; waiting - taken >= (all ? 1 : kWarp); taken += kWarp) absorb(taken);
    if (taken == 0) return;
    const uint64_t rest = taken + lane < waiting ? memory.pending[taken + lane] : 0;
    __syncwarp();
    memory.pending[lane] = rest;
    waiting = max(waiting - taken, 0);
    __syncwarp();
  }

  // Keys [begin, end) of the row; begin is a multiple of 4, or there are none. A lane has four neighbours.
  __device__ void keys(int64_t begin, int64_t end) {
    float ahead[kWalkAhead][4];
    int64_t j = begin + 4 * lane;
#pragma unroll
    for (int i = 0; i < kWalkAhead; ++i) row.load(ahead[i], j + i * kWalkKeys, end);
#pragma unroll 1
    for (int64_t first = begin;; first += kWalkKeys, j += kWalkKeys) {
      float score[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        score[e] = ahead[0][e];
#pragma unroll
        for (int i = 1; i < kWalkAhead; ++i) ahead[i - 1][e] = ahead[i][e];
      }
      row.load(ahead[kWalkAhead - 1], j + kWalkAhead * kWalkKeys, end);
      if (first < end) take(score, j, end);
      const bool last = first + kWalkKeys >= end;
      if (waiting >= kWalkWaiting || last) absorb_all(last);
      if (last) break;
    }
  }

  // Lets listed keys wait, in order of position, at most kMostEntering.
  __device__ void wait(const uint64_t* ranks, int count) {
    static_assert(kMostEntering <= kWalkWaiting + kWalkKeys);
#pragma unroll 2
    for (int first = 0; first < count; first += kWarp) {
      const int i = first + lane;
      const uint64_t own = i < count ? ranks[i] : 0;
      const bool enters = order_of(own) > threshold;
      const uint32_t entering = __ballot_sync(0xffffffffu, enters);
      if (enters) {
        memory.pending[waiting + __popc(entering & ((1u << lane) - 1))] = own;
      } else if (i < count) {
        row.evict(position_of(own), position_of(own));
      }
      waiting += __popc(entering);
    }
  }

  // The keys left at a sequence's end stay to its end.
  __device__ void keep() const {
    for (int i = lane; i < kept; i += kWarp) {
      if (memory.best[i] != 0) row.evict(position_of(memory.best[i]), row.length);
    }
  }

 private:
  // Keys j ... j + 3 of each lane: they leave, or wait.
  __device__ void take(const float (&score)[4], int64_t j, int64_t end) {
    const bool whole = j + 4 <= end;
    // NaN ranks lowest, and so do maxima of nothing else.
    const float greatest = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
    const bool some = !whole || order_of(greatest) > threshold;
    if (!some) row.evict_four(j);
    if (!__any_sync(0xffffffffu, some)) return;
    uint32_t order[4], entering[4];
    int before = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      order[i] = j + i < end ? order_of(score[i]) : 0;
      entering[i] = __ballot_sync(0xffffffffu, order[i] > threshold);
      before += __popc(entering[i] & ((1u << lane) - 1));
      if (some && order[i] != 0 && order[i] <= threshold) row.evict(j + i, j + i);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (order[i] > threshold) {
        memory.pending[waiting + before++] = rank_of(order[i], static_cast<uint32_t>(j + i));
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) waiting += __popc(entering[i]);
  }
};

// A warp for every (slot of a chunk, head).
template <int V>
__global__ void __launch_bounds__(kWalkWarps* kWarp)
    walk_kernel(const __grid_constant__ Params p, const __grid_constant__ Plan plan) {
  constexpr int kListed = kWarp * V;
  __shared__ WalkMemory<V> memory[kWalkWarps];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t index = int64_t{blockIdx.x} * kWalkWarps + warp;
  if (index >= p.chunks().slots() * p.heads) return;
  const SequenceTiles::Tile chunk = p.chunks().at(index / p.heads);
  if (chunk.begin >= chunk.end || chunk.begin == 0) return;  // the first is done already
  const Row row(p, chunk.range, index % p.heads);
  const int kept = static_cast<int>(min(p.budget, int64_t{kListed}));
  const uint64_t* before = plan.best + (index + 1) * kListed - kept;
  Walk<V> walk(row, memory[warp], before, kept, lane);
  const int count = plan.counts[index];
  const bool listed = count != kAllEnter;
  if (listed) walk.wait(plan.entering + index * kMostEntering, count);
  walk.keys(listed ? chunk.end : chunk.begin, chunk.end);  // absorbs those that wait, too
  if (chunk.end == row.length) walk.keep();
}

}  // namespace hax::key_select
