// Barriers in shared memory, for threads that hand something on without waiting (sm_80 and later). Those who arrive
// release what they have written, those who wait acquire it.
#pragma once

#include <cstdint>

#include "device/mma.cuh"

namespace hax::device {

// By one thread, before a barrier of the block. A phase ends when `arrivals` threads have arrived.
__device__ inline void init_mbarrier(uint64_t& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals)
               : "memory");
}

__device__ inline void arrive(uint64_t& barrier) {
  asm volatile(
      "{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(shared_address(&barrier))
      : "memory");
}

// Until the barrier's first phase (parity 0), its second (parity 1), its third (parity 0) and so on has ended.
__device__ inline void wait(uint64_t& barrier, uint32_t parity) {
  uint32_t ended;
  do {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{.reg .pred ended; mbarrier.try_wait.parity.shared.b64 ended, [%1], %2; "
        "selp.u32 %0, 1, 0, ended;}"
        : "=r"(ended)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
#else
    asm volatile(
        "{.reg .pred ended; mbarrier.test_wait.parity.shared.b64 ended, [%1], %2; "
        "selp.u32 %0, 1, 0, ended;}"
        : "=r"(ended)
        : "r"(shared_address(&barrier)), "r"(parity)
        : "memory");
#endif
  } while (ended == 0);
}

}  // namespace hax::device
