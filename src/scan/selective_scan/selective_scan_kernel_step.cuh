// Step of the selective scan: a few tokens of each sequence, states in a pool. The states are nearly all
// that is moved, so they are asked for first, those of several sequences at once.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_warp.cuh"

namespace hax::selective_scan {

// B or C of a token for a lane's states, with zeros beyond N. vectors: all of them can be moved at once.
template <class S>
__device__ void load_states(float (&to)[S::kStates], const Tensor& tensor, bool vectors, int64_t b,
                            int64_t t, int64_t group, int part, int64_t states) {
  using T = typename S::T;
  const int n = part * S::kStates;
  const T* const from = tensor.at<T>(b, t, group);
  if (vectors) {
    Held<T, S::kStates> held;
    held.load(from + n);
#pragma unroll
    for (int k = 0; k < S::kStates; ++k) to[k] = held.get(k);
  } else {
#pragma unroll
    for (int k = 0; k < S::kStates; ++k) {
      to[k] = n + k < states ? device::to_float(from[(n + k) * tensor.stride[3]]) : 0.0f;
    }
  }
}

// A block for every (kSequences sequences, block of channels), channels fastest; a lane has one channel.
template <class S, int kSequences>
__global__ void __launch_bounds__(S::kThreads)
    step_kernel(const __grid_constant__ StepParams p, bool vectors, int64_t blocks) {
  using T = typename S::T;
  static_assert(S::kChannels == 1);
  const int64_t first = blockIdx.x / blocks * kSequences;
  const BlockChannels block(p, blockIdx.x % blocks, S::kWidth);
  Lane<S> lane;
  int64_t source[kSequences];
  float h[kSequences][1][S::kStates];
#pragma unroll
  for (int i = 0; i < kSequences; ++i) {
    source[i] = first + i < p.batch ? p.slots.source(first + i) : -1;
    if (source[i] >= 0) {
      lane.load(h[i], p.state, p.state.offset(source[i]), block, p.states);
    }
  }
  lane.load_rates(p, block);
  const bool mine = lane.channel < block.count;
  const int64_t channel = block.first + (mine ? lane.channel : 0);
  const float bias = p.delta_bias ? *p.delta_bias.at<float>(channel) : 0.0f;
  const float skip = p.D ? *p.D.at<float>(channel) : 0.0f;
#pragma unroll
  for (int i = 0; i < kSequences; ++i) {
    if (source[i] < 0) continue;
    const int64_t b = first + i;
    for (int64_t t = 0; t < p.tokens; ++t) {
      float B[S::kStates], C[S::kStates];
      load_states<S>(B, p.B, vectors, b, t, block.group, lane.part, p.states);
      load_states<S>(C, p.C, vectors, b, t, block.group, lane.part, p.states);
      const float u = device::to_float(*p.u.at<T>(b, t, channel));
      const float delta = device::to_float(*p.delta.at<T>(b, t, channel)) + bias;
      const float dt = step_size<S>(delta, p.softplus);
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) {
        const float d = decay<S>(dt * lane.rate[0][k]);
        h[i][0][k] = decayed<S>(d, h[i][0][k], dt * u * B[k]);
        sum += C[k] * h[i][0][k];
      }
      float y = device::warp_sum<S::kLanes>(sum) + skip * u;
      if (p.z) y *= device::silu(device::to_float(*p.z.at<T>(b, t, channel)));
      if (mine && lane.part == 0) *p.y.at<T>(b, t, channel) = device::from_float<T>(y);
      const int64_t slot = p.slots.destination(b, t, p.tokens);
      if (slot >= 0) lane.store(h[i], p.state, p.state.offset(slot), block, p.states);
    }
  }
}

}  // namespace hax::selective_scan
