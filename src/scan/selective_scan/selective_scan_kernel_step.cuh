// Step of the selective scan: a few tokens of each sequence, states in a pool. The states are nearly all
// that is moved, so they are asked for first, those of several sequences at once.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_warp.cuh"

namespace hax::selective_scan {

// A lane's channel and states. kVectors: all its states, fp32 ones of the pool too, can be moved at once.
template <class S, bool kVectors>
struct StepLane : Lane<S> {
  using T = typename S::T;
  using Lane<S>::part, Lane<S>::rate;
  using States = float[1][S::kStates];
  static_assert(S::kChannels == 1);

  const StepParams& p;
  const BlockChannels block;
  const bool mine;
  const int64_t channel;  // lanes without one read the block's first one

  __device__ StepLane(const StepParams& params, unsigned index)
      : p(params),
        block(params, index, S::kWidth),
        mine(this->channel_in_block() < block.count),
        channel(block.first + (mine ? this->channel_in_block() : 0)) {}

  __device__ int channel_in_block() const { return Lane<S>::channel; }

  __device__ void load_rates() {
    if constexpr (kVectors) {
      load_row(rate[0], p.A.at<float>(channel, part * S::kStates));
#pragma unroll
      for (float& r : rate[0]) r *= device::kLog2E;
    } else {
      Lane<S>::load_rates(p, block);
    }
  }
  __device__ void load(States& h, int64_t slot) const {
    if constexpr (kVectors) {
      load_row(h[0], p.state.at<float>(slot, channel, part * S::kStates));
    } else {
      Lane<S>::load(h, p.state, p.state.offset(slot), block, p.states);
    }
  }
  __device__ void store(const States& h, int64_t slot) const {
    if constexpr (kVectors) {
      float* const to = p.state.at<float>(slot, channel, part * S::kStates);
      if (!mine) return;
      if constexpr (S::kStates == 2) {
        __stcg(reinterpret_cast<float2*>(to), make_float2(h[0][0], h[0][1]));
      } else {
#pragma unroll
        for (int k = 0; k < S::kStates; k += 4) {
          __stcg(reinterpret_cast<float4*>(to + k),
                 make_float4(h[0][k], h[0][k + 1], h[0][k + 2], h[0][k + 3]));
        }
      }
    } else {
      Lane<S>::store(h, p.state, p.state.offset(slot), block, p.states);
    }
  }
  // Of B or C, with zeros beyond N.
  __device__ void load(Held<T, S::kStates>& to, const Tensor& tensor, int64_t b, int64_t t) const {
    const int n = part * S::kStates;
    const T* const from = tensor.at<T>(b, t, block.group);
    if constexpr (kVectors) {
      to.load(from + n);
    } else {
      to.clear();
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) {
        if (n + k < p.states) to.set(k, from[(n + k) * tensor.stride[3]]);
      }
    }
  }
};

// What a lane reads for a token.
template <class S>
struct StepInputs {
  using T = typename S::T;
  Held<T, S::kStates> B, C;
  Held<T, 1> u, delta, z;

  template <class Lane>
  __device__ void load(const Lane& lane, int64_t b, int64_t t) {
    const StepParams& p = lane.p;
    u.load(p.u.at<T>(b, t, lane.channel));
    delta.load(p.delta.at<T>(b, t, lane.channel));
    z.clear();
    if (p.z) z.load(p.z.at<T>(b, t, lane.channel));
    lane.load(B, p.B, b, t);
    lane.load(C, p.C, b, t);
  }
};

// A block for every (kSequences sequences, block of channels), channels fastest.
template <class S, int kSequences, bool kVectors>
__global__ void __launch_bounds__(S::kThreads, S::kAccurate ? 1 : 1024 / S::kThreads)
    step_kernel(const __grid_constant__ StepParams p, unsigned blocks) {
  using T = typename S::T;
  StepLane<S, kVectors> lane(p, blockIdx.x % blocks);
  const int64_t first = int64_t{blockIdx.x / blocks} * kSequences;
  int64_t source[kSequences];
  typename StepLane<S, kVectors>::States h[kSequences];
#pragma unroll
  for (int i = 0; i < kSequences; ++i) {
    source[i] = first + i < p.batch ? p.slots.source(first + i) : -1;
    if (source[i] >= 0) lane.load(h[i], source[i]);
  }
  StepInputs<S> inputs[kSequences];
  const auto load = [&](int64_t t) {
#pragma unroll
    for (int i = 0; i < kSequences; ++i) {
      if (source[i] >= 0) inputs[i].load(lane, first + i, t);
    }
  };
  if (p.tokens > 0) load(0);
  lane.load_rates();
  const float bias = p.delta_bias ? *p.delta_bias.at<float>(lane.channel) : 0.0f;
  const float skip = p.D ? *p.D.at<float>(lane.channel) : 0.0f;
  for (int64_t t = 0; t < p.tokens; ++t) {
    if (t > 0) load(t);
#pragma unroll
    for (int i = 0; i < kSequences; ++i) {
      if (source[i] < 0) continue;
      const StepInputs<S>& in = inputs[i];
      const float u = in.u.get(0);
      const float dt = step_size<S>(in.delta.get(0) + bias, p.softplus);
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) {
        const float d = decay<S>(dt * lane.rate[0][k]);
        h[i][0][k] = decayed<S>(d, h[i][0][k], dt * u * in.B.get(k));
        sum += in.C.get(k) * h[i][0][k];
      }
      float y = device::warp_sum<S::kLanes>(sum) + skip * u;
      if (p.z) y *= device::silu(in.z.get(0));
      if (lane.mine && lane.part == 0) {
        *p.y.at<T>(first + i, t, lane.channel) = device::from_float<T>(y);
      }
      const int64_t slot = p.slots.destination(first + i, t, p.tokens);
      if (slot >= 0) lane.store(h[i], slot);
    }
  }
}

}  // namespace hax::selective_scan
