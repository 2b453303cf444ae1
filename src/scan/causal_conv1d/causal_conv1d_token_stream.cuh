// Tokens that arrive in shared memory ahead of their use.
#pragma once

#include "device/async_copy.cuh"
#include "scan/causal_conv1d/causal_conv1d_kernel.cuh"

namespace hax::causal_conv1d {

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
      : ring_(ring), thread_(thread), left_(static_cast<int>(end - begin)) {
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
      slot_ = t % kSlots;
      request((slot_ + kSlots - kStage) % kSlots);
      device::wait_for_copies<Stages - 1>();
    } else if (t > 0) {
#pragma unroll
      for (int k = 0; k < Inputs; ++k) next_[k] += kStage * step_[k];
    }
  }

  // Token i of the stage, of input k.
  __device__ Token get(int k, int i) const {
    if constexpr (kAhead) return ring_[slot_ + i][k][thread_];
    return device::load_packed<T, S::V>(next_[k] + i * step_[k]);
  }

 private:
  // Starts the copies of the next stage, into the slots from `slot` on.
  __device__ void request(int slot) {
#pragma unroll
    for (int i = 0; i < kStage; ++i) {
#pragma unroll
      for (int k = 0; k < Inputs; ++k) {
        if (left_ > i) {
          device::copy_async<sizeof(Token)>(&ring_[slot + i][k][thread_], next_[k]);
        }
        next_[k] += step_[k];
      }
    }
    device::commit_copies();
    left_ -= kStage;
  }

  Ring& ring_;
  int thread_;
  int left_;  // tokens not asked for yet
  int slot_ = 0;
  const T* next_[Inputs];
  int64_t step_[Inputs];
};

}  // namespace hax::causal_conv1d
