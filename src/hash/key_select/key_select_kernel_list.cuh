// Sorted lists of ranks in the registers of a warp.
#pragma once

#include "hash/key_select/key_select_kernel.cuh"

namespace hax::key_select {

// Exchanges with the lane `distance` away and keeps the greater or the smaller value.
__device__ inline uint64_t keep_one(uint64_t mine, int distance, bool greater) {
  const uint64_t other = __shfl_xor_sync(0xffffffffu, mine, distance);
  return (mine < other) == greater ? other : mine;
}

// A list of a warp: lane l holds places V l ... V l + V - 1, ascending.
template <int V>
struct RankList {
  uint64_t rank[V] = {};

  __device__ void load(const uint64_t* from, int lane) {
#pragma unroll
    for (int v = 0; v < V; ++v) rank[v] = from[lane * V + v];
  }
  __device__ void load_reversed(const uint64_t* from, int lane) {
#pragma unroll
    for (int v = 0; v < V; ++v) rank[v] = from[kWarp * V - 1 - (lane * V + v)];
  }
  __device__ void store(uint64_t* to, int lane) const {
#pragma unroll
    for (int v = 0; v < V; ++v) to[lane * V + v] = rank[v];
  }

  // 32 ranks, one a lane, become a list's best; its other places are empty.
  __device__ void sort(uint64_t mine, int lane) {
#pragma unroll
    for (int width = 2; width <= kWarp; width *= 2) {
#pragma unroll
      for (int distance = width / 2; distance > 0; distance /= 2) {
        const bool descends = (lane & width) != 0 && width < kWarp;
        mine = keep_one(mine, distance, ((lane & distance) != 0) != descends);
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int place = lane * V + v - kWarp * (V - 1);
      const uint64_t own = __shfl_sync(0xffffffffu, mine, place & (kWarp - 1));
      rank[v] = place >= 0 ? own : 0;
    }
  }

  // Keeps the best of both lists (Batcher 1968: the greater ones of a list and a reversed one are
  // bitonic).
  __device__ void merge(const RankList& reversed, int lane) {
#pragma unroll
    for (int v = 0; v < V; ++v) rank[v] = max(rank[v], reversed.rank[v]);
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int v = 0; v < V; ++v) rank[v] = keep_one(rank[v], distance, lane & distance);
    }
#pragma unroll
    for (int distance = V / 2; distance > 0; distance /= 2) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        if (v & distance) continue;
        const uint64_t low = min(rank[v], rank[v + distance]);
        rank[v + distance] = max(rank[v], rank[v + distance]);
        rank[v] = low;
      }
    }
  }
};

}  // namespace hax::key_select
