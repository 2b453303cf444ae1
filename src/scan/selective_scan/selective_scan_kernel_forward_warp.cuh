// What the forward's warps share, whichever way they go through their chunks.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_products.cuh"

namespace hax::selective_scan {

// What the launch works out ahead: blocks of channels, warps of a ring, strides of the tensors.
struct ForwardLayout {
  unsigned blocks;
  int ring;
  Strides u, delta, z, y;
  int64_t B, C;     // a ring's chunks, in bytes
  int64_t B_lanes;  // four tokens
  // Segments of a sequence, of so many tokens, in walks of so many. By segments of all sequences: what they have made of a state
  // of zeros, the state carried into them; the steps' sums up to the end of each walk.
  unsigned segments, walks;
  int64_t segment, walk;
  Tensor made, carried;  // (segments, D, N)
  Tensor elapsed;        // (segments, walks, D)
};

template <class S>
struct ForwardWarp {
  ChunkPairs<S> pairs;
  float states[2][S::kTokens][S::kAllStates];  // B, C
};

// A value that the compiler works out here rather than wherever it is used.
__device__ inline int settled(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
__device__ inline float settled(float value) {
  asm volatile("" : "+f"(value));
  return value;
}

// dt and dt u of a lane's own elements, for all the channel's lanes.
template <class S>
__device__ void share_steps(ChunkPairs<S>& pairs, const Elements<S>& u, const Elements<S>& delta,
                            const float (&bias)[S::kChannels], bool softplus, int part, int row,
                            int tokens) {
#pragma unroll
  for (int i = 0; i < S::kOwn; ++i) {
    const int token = part + i * S::kLanes;
    float2 values[S::kChannels];
#pragma unroll
    for (int m = 0; m < S::kChannels; ++m) {
      const float plain = delta.at[i].get(m) + bias[m];
      // Not a branch, which would end what the compiler can mix with other work.
      const float soft = settled(step_size<S>(plain, true));
      float dt = softplus ? soft : plain;
      // Beyond the chunk's tokens a step of 0 leaves the state as it is.
      if (token >= tokens) dt = 0.0f;
      values[m] = make_float2(dt, dt * u.at[i].get(m));
    }
    if (S::kTokens >= S::kLanes || token < S::kTokens) pairs.store(token, row, values);
  }
}

// What a warp holds for its part in a sequence.
template <class S_>
struct WarpScan {
  using S = S_;
  static constexpr int kTokens = S::kTokens, kChannels = S::kChannels;
  using States = float[kChannels][S::kStates];

  const ForwardParams& p;
  const ForwardLayout& layout;
  const BlockChannels& block;
  const Sequences::Range& range;
  Lane<S> lane;
  const int thread;  // of the warp
  const int row;     // of the warp's channels
  const int
      mine;  // whether there are such channels; otherwise the lane reads the block's first ones
  const int64_t channel;
  int64_t checkpoint;  // tokens before the next one
  float bias[kChannels], skip[kChannels];

  // side: the warp's place among those with other channels.
  __device__ WarpScan(const ForwardParams& params, const ForwardLayout& layout_,
                      const BlockChannels& block_, const Sequences::Range& range_, unsigned side)
      : p(params),
        layout(layout_),
        block(block_),
        range(range_),
        lane(p, block, side * device::kWarp + threadIdx.x % device::kWarp),
        thread(settled(static_cast<int>(threadIdx.x % device::kWarp))),
        row(settled(static_cast<int>(threadIdx.x % device::kWarp / S::kLanes))),
        mine(settled(lane.channel < block.count)),
        channel(block.first + (mine ? lane.channel : 0)),
        checkpoint(p.checkpoints.every) {
    lane.part = settled(lane.part);
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      bias[m] = p.delta_bias ? *p.delta_bias.at<float>(channel + m) : 0.0f;
      skip[m] = p.D ? *p.D.at<float>(channel + m) : 0.0f;
    }
  }

  __device__ int chunks() const { return static_cast<int>((range.length + kTokens - 1) / kTokens); }
  // Tokens of a chunk; 0 behind the last.
  __device__ int chunk_tokens(int chunk) const {
    const int tail = static_cast<int>(range.length - 1) % kTokens + 1;
    return chunk < chunks() - 1 ? kTokens : chunk == chunks() - 1 ? tail : 0;
  }

  // What sums lose on average where their terms are cut off to tf32.
  static constexpr float kCut = kTensor<S> ? 1.0f + 0.7213f / 2048 : 1.0f;

  // y of the lane's own elements i from their sums over n.
  __device__ void finish(float (&y)[kChannels], int i, const Elements<S>& u,
                         const Elements<S>& z) const {
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      const float gate = device::silu(z.at[i].get(m));
      y[m] = y[m] * kCut + skip[m] * u.at[i].get(m);
      y[m] = p.z ? y[m] * gate : y[m];
    }
  }
  // f(channel, state) for all of the lane's.
  template <class F>
  __device__ static void for_each_state(F&& f) {
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) f(m, k);
    }
  }
};

// What a warp has fetched for a chunk.
template <class S>
struct Fetched {
  Elements<S> u, delta, z;
  typename ChunkStates<S>::Rows states;
};

// The tensors that a warp reads, chunk by chunk, `ring` chunks apart.
template <class S>
struct Inflow {
  Stream<S> u, delta, z;
  ChunkStates<S> states;

  // token: the first chunk's first.
  __device__ Inflow(const WarpScan<S>& w, int64_t token)
      : u(w.p.u, w.layout.u, w.range.row, token + w.lane.part % S::kTokens, w.channel),
        delta(w.p.delta, w.layout.delta, w.range.row, token + w.lane.part % S::kTokens, w.channel),
        // Read even where there is none.
        z(w.p.z ? w.p.z : w.p.u, w.layout.z, w.range.row, token + w.lane.part % S::kTokens,
          w.channel),
        states(w.p, w.layout.B, w.layout.C, w.range.row, token, w.block.group, w.thread) {}

  // The next chunk, of so many tokens.
  __device__ void fetch(Fetched<S>& to, int tokens, int part) {
    u.load(to.u, tokens - part);
    delta.load(to.delta, tokens - part);
    z.load(to.z, tokens - part);
    states.fetch(to.states, tokens);
    u.advance();
    delta.advance();
    z.advance();
    states.advance();
  }
};

}  // namespace hax::selective_scan
