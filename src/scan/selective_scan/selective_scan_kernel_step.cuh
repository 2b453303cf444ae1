// Step of the selective scan: a few tokens of each sequence, states in a pool. The states are nearly all
// that is moved, so they are asked for first.
#pragma once

#include "device/early_start.cuh"
#include "scan/selective_scan/selective_scan_kernel.cuh"

namespace hax::selective_scan {

template <class T_, int Lanes, int States>
struct StepShape {
  using T = T_;
  static constexpr int kLanes = Lanes, kStates = States, kChannels = 1;  // of a lane
  static constexpr int kAllStates = kLanes * kStates;
  static constexpr int kThreads = 256;
  static constexpr int kWidth = kThreads / kLanes;  // channels of a block
  static constexpr bool kAccurate = type_of<T> == Type::fp32;
};

// A lane's channel and states. kVectors: four of its states, fp32 ones of the pool too, can be moved at once; then
// the channel's lanes take four each in turn.
template <class S, bool kVectors>
struct StepLane : Lane<S> {
  using T = typename S::T;
  using Lane<S>::part, Lane<S>::rate;
  using States = float[1][S::kStates];
  static constexpr int kTogether = kVectors ? 4 : S::kStates;
  static constexpr int kRounds = S::kStates / kTogether;
  using Row = Held<T, kTogether>[kRounds];

  const StepParams& p;
  const BlockChannels block;
  const bool mine;
  const int64_t channel;  // lanes without one read the block's first one

  __device__ StepLane(const StepParams& params, unsigned index)
      : p(params),
        block(params, index, S::kWidth),
        mine(Lane<S>::channel < block.count),
        channel(block.first + (mine ? Lane<S>::channel : 0)) {}

  // The first state of a round.
  __device__ int state(int round) const { return (round * S::kLanes + part) * kTogether; }

  // Has states on their way to the L2 cache before the kernels before have ended; not where slots name them.
  __device__ void announce(int64_t sequence) const {
    if constexpr (kVectors) {
      if (!mine || p.slots.named() || sequence >= p.batch) return;
      const float* const from = p.state.template at<float>(sequence, channel);
#pragma unroll
      for (int i = 0; i < kRounds; ++i) device::prefetch_to_l2(from + state(i));
    }
  }
  __device__ void load_rates() {
    if constexpr (kVectors) {
      load_vectors(rate, p.A.at<float>(channel));
#pragma unroll
      for (float& r : rate[0]) r *= device::kLog2E;
    } else {
      Lane<S>::load_rates(p, block);
    }
  }
  __device__ void load(States& h, int64_t slot) const {
    if constexpr (kVectors) {
      load_vectors(h, p.state.at<float>(slot, channel));
    } else {
      Lane<S>::load(h, p.state, p.state.offset(slot), block, p.states);
    }
  }
  __device__ void store(const States& h, int64_t slot) const {
    if constexpr (kVectors) {
      if (!mine) return;
      float* const to = p.state.at<float>(slot, channel);
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const float* const v = &h[0][i * 4];
        __stcg(reinterpret_cast<float4*>(to + state(i)), make_float4(v[0], v[1], v[2], v[3]));
      }
    } else {
      Lane<S>::store(h, p.state, p.state.offset(slot), block, p.states);
    }
  }
  // Of B or C, with zeros beyond N.
  __device__ void load(Row& to, const Tensor& tensor, int64_t b, int64_t t) const {
    const T* const from = tensor.at<T>(b, t, block.group);
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      if constexpr (kVectors) {
        to[i].load(from + state(i));
      } else {
        to[i].clear();
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          if (state(i) + k < p.states) to[i].set(k, from[(state(i) + k) * tensor.stride[3]]);
        }
      }
    }
  }
  __device__ static float get(const Row& row, int k) {
    return row[k / kTogether].get(k % kTogether);
  }

 private:
  __device__ void load_vectors(States& to, const float* from) const {
#pragma unroll
    for (int i = 0; i < kRounds; ++i) {
      const float4 part4 = *reinterpret_cast<const float4*>(from + state(i));
      to[0][i * 4] = part4.x;
      to[0][i * 4 + 1] = part4.y;
      to[0][i * 4 + 2] = part4.z;
      to[0][i * 4 + 3] = part4.w;
    }
  }
};

// What a lane reads for a token.
template <class Lane>
struct StepInputs {
  using T = typename Lane::T;
  typename Lane::Row B, C;
  Held<T, 1> u, delta, z;

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
  using Lane = StepLane<S, kVectors>;
  Lane lane(p, blockIdx.x % blocks);
  const int64_t first = int64_t{blockIdx.x / blocks} * kSequences;
  device::start_next();
#pragma unroll
  for (int i = 0; i < kSequences; ++i) lane.announce(first + i);
  device::wait_for_previous();
  int64_t source[kSequences];
  typename Lane::States h[kSequences];
#pragma unroll
  for (int i = 0; i < kSequences; ++i) {
    source[i] = first + i < p.batch ? p.slots.source(first + i) : -1;
    if (source[i] >= 0) lane.load(h[i], source[i]);
  }
  StepInputs<Lane> inputs[kSequences];
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
      const StepInputs<Lane>& in = inputs[i];
      const float u = in.u.get(0);
      const float dt = step_size<S>(in.delta.get(0) + bias, p.softplus);
      float sum = 0.0f;
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) {
        const float d = decay<S>(dt * lane.rate[0][k]);
        h[i][0][k] = decayed<S>(d, h[i][0][k], dt * u * Lane::get(in.B, k));
        sum += Lane::get(in.C, k) * h[i][0][k];
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
