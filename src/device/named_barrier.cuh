// Barriers for some of a block's warps, numbered 1 to 15 (0 is __syncthreads' own).
#pragma once

namespace hax::device {

// Waits until `threads` threads have come to the barrier.
__device__ inline void wait_at_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace hax::device
