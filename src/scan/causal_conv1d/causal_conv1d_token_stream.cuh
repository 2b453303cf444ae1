// Tokens that arrive in shared memory ahead of their use.
#pragma once

#include "device/async_copy.cuh"
#include "device/early_start.cuh"
#include "scan/causal_conv1d/causal_conv1d_kernel.cuh"

namespace hax::causal_conv1d {

// Has the tokens [begin, end) on their way to the L2 cache before the kernels before have ended. Threads that
// share a sector share its tokens out.
template <class S>
__device__ void announce(const Tensor& tensor, int64_t row, int64_t begin, int64_t end,
                         int64_t channel) {
  constexpr int kSector = 32 / static_cast<int>(sizeof(typename S::T)) / S::V;
  const int sharer = static_cast<int>(threadIdx.x) % kSector;
  const auto* at = token_address<S>(tensor, row, begin + sharer, channel);
  for (int left = static_cast<int>(end - begin) - sharer; left > 0; left -= kSector) {
    device::prefetch_to_l2(at);
    at += tensor.stride[1] * kSector;
  }
}

// A thread's channels of the tokens [begin, end) of a row, of Inputs tensors. Where T and V make whole words of a token
// they are copied ahead of their use, in stages, into a ring in shared memory whose slots are this thread's alone.
template <class S, int Inputs, int Threads, int Stages>
class TokenStream {
 public:
  using T = typename S::T;
  using Token = Packed<T, S::V>;
  static constexpr bool kAhead = sizeof(Token) >= 4;
  static constexpr int kStage = 4;  // tokens
  static constexpr int kSlots = kStage * Stages;
  using Ring = Token[kAhead ? kSlots : 1][Inputs][Threads];

  __device__ TokenStream(Ring& ring, int thread, const Tensor (&inputs)[Inputs], int64_t row,
                         int64_t begin, int64_t end, int64_t channel)
      : slots_(&ring[0][0][thread]), left_(static_cast<int>(end - begin)) {
#pragma unroll
    for (int k = 0; k < Inputs; ++k) {
      next_[k] = token_address<S>(inputs[k], row, begin, channel);
      step_[k] = inputs[k].stride[1];
    }
    if constexpr (kAhead) {
      for (int stage = 0; stage + 1 < Stages; ++stage) request(stage * kStage);
    }
  }

  // Must be called for every stage in turn, t being its first token: its tokens may be read from now on, and those of
  // the stage before no more.
  __device__ void begin_stage(int t) {
    if constexpr (kAhead) {
      const int slot = t % kSlots;
      request((slot + kSlots - kStage) % kSlots);
      stage_ = slots_ + slot * kSlot;
      device::wait_for_copies<Stages - 1>();
    } else if (t > 0) {
#pragma unroll
      for (int k = 0; k < Inputs; ++k) next_[k] += kStage * step_[k];
    }
  }

  // Token i of the stage, of input k.
  __device__ Token get(int k, int i) const {
    if constexpr (kAhead) return stage_[i * kSlot + k * Threads];
    return device::load_packed<T, S::V>(next_[k] + i * step_[k]);
  }

 private:
  // Starts the copies of the next stage, into the slots from `slot` on.
  __device__ void request(int slot) {
    const uint32_t to = device::shared_address(slots_ + slot * kSlot);
#pragma unroll
    for (int i = 0; i < kStage; ++i) {
#pragma unroll
      for (int k = 0; k < Inputs; ++k) {
        constexpr int kBytes = sizeof(Token);
        if (left_ > i) {
          device::copy_async<kBytes>(to + (i * kSlot + k * Threads) * kBytes, next_[k]);
        }
        next_[k] += step_[k];
      }
    }
    device::commit_copies();
    left_ -= kStage;
  }

  static constexpr int kSlot = Inputs * Threads;  // from one slot of a thread to its next

  Token* slots_;
  Token* stage_ = nullptr;
  int left_;  // tokens not asked for yet
  const T* next_[Inputs];
  int64_t step_[Inputs];
};

}  // namespace hax::causal_conv1d
