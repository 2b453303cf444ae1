// Flags in global memory by which one thread block tells another that what it wrote can be read.
#pragma once

namespace hax::device {

// After a barrier behind the block's writes, by one thread.
__device__ inline void set_flag(int* flag) {
  __threadfence();
  asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
}

// By one thread, before a barrier and the block's reads, which must bypass L1 (__ldcg).
__device__ inline void wait_for_flag(const int* flag) {
  for (;;) {
    int set;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(set) : "l"(flag) : "memory");
    if (set) return;
    __nanosleep(100);
  }
}

}  // namespace hax::device
