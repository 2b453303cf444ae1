// Copies from global to shared memory that go on while the thread does something else (sm_80 and later).
#pragma once

#include <cstdint>

#include "device/mma.cuh"

namespace hax::device {

// 16 aligned bytes; zeros, with nothing read, where `valid` is false.
__device__ inline void copy_async_16(uint32_t to, const void* from, bool valid = true) {
  const uint32_t bytes = valid ? 16u : 0u;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ inline void copy_async_16(void* to, const void* from, bool valid = true) {
  copy_async_16(shared_address(to), from, valid);
}

// 4, 8 or 16 aligned bytes. to: from shared_address().
template <int Bytes>
__device__ void copy_async(uint32_t to, const void* from) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(Bytes)
               : "memory");
}

// Closes a group of this thread's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// 4, 8 or 16 aligned bytes, kept in the L1 cache too; zeros, with nothing read, where `valid` is false.
template <int Bytes>
__device__ void copy_async_or_clear(void* to, const void* from, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from),
               "n"(Bytes), "r"(valid ? Bytes : 0)
               : "memory");
}

// Waits until at most `Pending` of this thread's groups are under way. Others' copies need a barrier besides.
template <int Pending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace hax::device
