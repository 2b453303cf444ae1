// Barriers in shared memory (mbarrier): some threads of a block arrive, others wait.
#pragma once

#include "device/mma.cuh"

namespace hax::device {

// One phase after the other ends when `count` arrivals have been counted. Before the first use the block's
// threads meet at a barrier of their own.
struct ArrivalBarrier {
  uint64_t state;

  __device__ void init(int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&state)), "r"(count)
                 : "memory");
  }
  __device__ void arrive() {
    asm volatile(
        "{\n.reg .b64 token;\nmbarrier.arrive.shared.b64 token, [%0];\n}" ::"r"(
            shared_address(&state))
        : "memory");
  }
  // Waits for the end of a phase; parity: 0 for the first, 1 for the second, and so on.
  __device__ void wait(int parity) {
    uint32_t done;
    do {
#if __CUDA_ARCH__ >= 900
      asm volatile(
          "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, "
          "p;\n}"
          : "=r"(done)
          : "r"(shared_address(&state)), "r"(parity)
          : "memory");
#else
      asm volatile(
          "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, "
          "p;\n}"
          : "=r"(done)
          : "r"(shared_address(&state)), "r"(parity)
          : "memory");
#endif
    } while (!done);
  }
};

}  // namespace hax::device
