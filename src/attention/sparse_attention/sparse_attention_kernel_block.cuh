// What the kernels that prepare lists do as whole blocks.
#pragma once

#include "attention/sparse_attention/sparse_attention_cuda.hpp"

namespace hax::sparse_attention {

// Numbers the threads of a block that have something, in their order.
template <int kThreads>
struct BlockCount {
  int32_t warps[kThreads / 32];

  struct Result {
    int32_t before, all;
  };
  // `mine` things of this thread; all threads call it.
  __device__ Result operator()(int32_t mine) {
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    int32_t sum = mine;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, sum, d);
      if (lane >= d) sum += other;
    }
    if (lane == 31) warps[warp] = sum;
    __syncthreads();
    const int32_t of_warp = lane < kThreads / 32 ? warps[lane] : 0;
    const int32_t all = __reduce_add_sync(0xffffffffu, of_warp);
    const int32_t before = __reduce_add_sync(0xffffffffu, lane < warp ? of_warp : 0);
    __syncthreads();
    return {before + sum - mine, all};
  }
};

// Sorts at most kFewSelected keys, which ascend in shared memory, by eviction. All threads of a block call it.
__device__ inline void store_sorted(SelectedKey* to, const SelectedKey* shared, int32_t count) {
  for (int32_t i = threadIdx.x; i < count; i += blockDim.x) {
    const SelectedKey mine = shared[i];
    int32_t place = 0;
    for (int32_t k = 0; k < count; ++k) {
      const int32_t eviction = shared[k].eviction;
      place += (eviction < mine.eviction) | ((eviction == mine.eviction) & (k < i));
    }
    to[place] = mine;
  }
}

}  // namespace hax::sparse_attention
