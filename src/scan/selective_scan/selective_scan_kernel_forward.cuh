// Forward of the selective scan. A warp owns S::kWidth channels and works on chunks of S::kTokens tokens:
// what does not depend on the state before the chunk, above all the decays, comes first; then the states
// follow one another; then come the sums over them. Warps of a ring share their channels and take turns at
// the chunks: while one has its turn at the states, which go from warp to warp, the others work ahead.
#pragma once

#include "device/arrival_barrier.cuh"
#include "scan/selective_scan/selective_scan_kernel_warp.cuh"

namespace hax::selective_scan {

// What the launch works out ahead: blocks of channels, warps of a ring, strides of the tensors.
struct ForwardLayout {
  int64_t blocks;
  int ring;
  Strides u, delta, z, y;
  int64_t B, C;  // a ring's chunks, in bytes
};

template <class S>
struct ForwardWarp {
  ChunkPairs<S> pairs;
  float states[2][S::kTokens][S::kAllStates];  // B, C
  float received[S::kChannels > 1 ? 1 : device::kWarp][S::kStates];  // from the ring's warp before
  device::ArrivalBarrier barrier;
};

template <class S>
struct ForwardShared {
  static constexpr int kWarps = S::kChannels > 1 ? 4 : 8;
  static constexpr int kThreads = kWarps * device::kWarp;
  ForwardWarp<S> warps[kWarps];
};

// dt and dt u of a lane's own elements, for all the channel's lanes.
template <class S>
__device__ void share_steps(ChunkPairs<S>& pairs, const Elements<S>& u, const Elements<S>& delta,
                            const float (&bias)[S::kChannels], bool softplus, int part, int row,
                            int tokens) {
  float dt[S::kOwn][S::kChannels];
#pragma unroll
  for (int i = 0; i < S::kOwn; ++i) {
#pragma unroll
    for (int m = 0; m < S::kChannels; ++m) dt[i][m] = delta.at[i].get(m) + bias[m];
  }
  if (softplus) {
#pragma unroll
    for (int i = 0; i < S::kOwn; ++i) {
#pragma unroll
      for (int m = 0; m < S::kChannels; ++m) dt[i][m] = step_size<S>(dt[i][m], true);
    }
  }
#pragma unroll
  for (int i = 0; i < S::kOwn; ++i) {
    const int token = part + i * S::kLanes;
    float2 values[S::kChannels];
#pragma unroll
    for (int m = 0; m < S::kChannels; ++m) {
      // Beyond the chunk's tokens a step of 0 leaves the state as it is.
      if (token >= tokens) dt[i][m] = 0.0f;
      values[m] = make_float2(dt[i][m], dt[i][m] * u.at[i].get(m));
    }
    if (S::kTokens >= S::kLanes || token < S::kTokens) pairs.store(token, row, values);
  }
}

// y of a lane's own elements from the states of the chunk.
template <class S>
__device__ void sum_states(float (&y)[S::kOwn][S::kChannels], const float* C,
                           const float (&h)[S::kTokens][S::kChannels][S::kStates], int part) {
#pragma unroll
  for (int i = 0; i < S::kOwn; ++i) {
    float sums[S::kChannels][S::kSummed];
#pragma unroll
    for (int j = 0; j < S::kSummed; ++j) {
      const int token = i * S::kLanes + j;
      float row[S::kStates];
      load_row(row, C + token * S::kAllStates + part * S::kStates);
#pragma unroll
      for (int m = 0; m < S::kChannels; ++m) {
        float sum = row[0] * h[token][m][0];
#pragma unroll
        for (int k = 1; k < S::kStates; ++k) sum += row[k] * h[token][m][k];
        sums[m][j] = sum;
      }
    }
#pragma unroll
    for (int m = 0; m < S::kChannels; ++m) {
      y[i][m] = device::warp_sums<S::kLanes>(sums[m], part);
    }
  }
}

// A value that the compiler works out here rather than wherever it is used.
__device__ inline int settled(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// One warp's part in a sequence.
template <class S, bool kOutput>
class WarpScan {
 public:
  static constexpr int kTokens = S::kTokens, kChannels = S::kChannels;
  static constexpr bool kRings = kChannels == 1;
  using States = float[kChannels][S::kStates];

  Lane<S> lane;

  // turn: the warp's place in its ring, whose warps are neighbours.
  __device__ WarpScan(const ForwardParams& p, const ForwardLayout& layout,
                      const BlockChannels& block, const Sequences::Range& range, unsigned side, int turn,
                      ForwardWarp<S>& own)
      : lane(p, block, side * device::kWarp + threadIdx.x % device::kWarp),
        p_(p),
        layout_(layout),
        block_(block),
        range_(range),
        turn_(turn),
        thread_(settled(static_cast<int>(threadIdx.x % device::kWarp))),
        row_(settled(static_cast<int>(threadIdx.x % device::kWarp / S::kLanes))),
        own_(own),
        next_(kRings ? (&own)[turn + 1 < layout.ring ? 1 : -turn] : own),
        mine_(settled(lane.channel < block.count)),
        channel_(block.first + (mine_ ? lane.channel : 0)),
        checkpoint_(p.checkpoints.every) {
#pragma unroll
    for (int m = 0; m < kChannels; ++m) {
      bias_[m] = p.delta_bias ? *p.delta_bias.at<float>(channel_ + m) : 0.0f;
      skip_[m] = p.D ? *p.D.at<float>(channel_ + m) : 0.0f;
    }
    lane.part = settled(lane.part);
  }

  // Tokens [begin, end) of the sequence. The state of the first chunk is that of its warp's lanes.
  __device__ void run(int64_t begin, int64_t end) {
    const int ring = kRings ? layout_.ring : 1;
    const int chunks = static_cast<int>((end - begin + kTokens - 1) / kTokens);
    const int tail = static_cast<int>(end - begin - 1) % kTokens + 1;
    const auto chunk_tokens = [&](int chunk) {
      return chunk < chunks - 1 ? kTokens : chunk == chunks - 1 ? tail : 0;
    };
    const int64_t first = range_.begin + begin + turn_ * kTokens;
    const int64_t mine = first + lane.part % kTokens;
    Stream<S> u_stream(p_.u, layout_.u, range_.row, mine, channel_);
    Stream<S> delta_stream(p_.delta, layout_.delta, range_.row, mine, channel_);
    Stream<S> z_stream(p_.z ? p_.z : p_.u, layout_.z, range_.row, mine, channel_);
    Stream<S> y_stream(p_.y, layout_.y, range_.row, mine, channel_);
    ChunkStates<S> states(p_, layout_.B, layout_.C, range_.row, first, block_.group, thread_);
    Elements<S> u, delta, z;
    const auto fetch = [&](int tokens) {
      u_stream.load(u, tokens - lane.part);
      delta_stream.load(delta, tokens - lane.part);
      if (kOutput) z_stream.load(z, tokens - lane.part);
      states.fetch(tokens);
    };

    int tokens = chunk_tokens(turn_);
    fetch(tokens);
#pragma unroll 1
    for (int chunk = turn_; chunk < chunks; chunk += ring) {
      states.store(own_.states[0][0]);
      share_steps(own_.pairs, u, delta, bias_, p_.softplus, lane.part, row_, tokens);
      __syncwarp();
      float gate[S::kOwn][kChannels], skipped[S::kOwn][kChannels];
      if (kOutput) weigh(gate, skipped, u, z);
      u_stream.advance();
      delta_stream.advance();
      z_stream.advance();
      states.advance();
      const int next_tokens = chunk_tokens(chunk + ring);
      fetch(next_tokens);

      States h[kTokens];
      follow(h, ring > 1 && chunk > 0, ring > 1 && chunk + 1 < chunks);
      if constexpr (kOutput) {
        float y[S::kOwn][kChannels];
        sum_states<S>(y, own_.states[1][0], h, lane.part);
#pragma unroll
        for (int i = 0; i < S::kOwn; ++i) {
#pragma unroll
          for (int m = 0; m < kChannels; ++m) y[i][m] = (y[i][m] + skipped[i][m]) * gate[i][m];
          if (mine_ && lane.part + i * S::kLanes < tokens) y_stream.store(i, y[i]);
        }
        y_stream.advance();
      }
      __syncwarp();
      if (p_.checkpoints) store_checkpoints(h, begin + int64_t{chunk} * kTokens, tokens);
      tokens = next_tokens;
    }
  }

 private:
  // What a lane's own sums are multiplied with, and what is added to them before.
  __device__ void weigh(float (&gate)[S::kOwn][kChannels], float (&skipped)[S::kOwn][kChannels],
                        const Elements<S>& u, const Elements<S>& z) const {
#pragma unroll
    for (int i = 0; i < S::kOwn; ++i) {
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        gate[i][m] = 1.0f;
        skipped[i][m] = skip_[m] * u.at[i].get(m);
      }
    }
    if (!p_.z) return;
#pragma unroll
    for (int i = 0; i < S::kOwn; ++i) {
#pragma unroll
      for (int m = 0; m < kChannels; ++m) gate[i][m] = device::silu(z.at[i].get(m));
    }
  }

  // The states after each of a chunk's tokens. receive: the state before them comes from the ring; pass: that
  // after them goes on there.
  __device__ void follow(States (&h)[kTokens], bool receive, bool pass) {
    float2 pairs[kTokens][kChannels];
    own_.pairs.load(pairs, row_);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      for_each_state([&](int m, int k) {
        h[i][m][k] = decay<S>(pairs[i][m].x * lane.rate[m][k]);
      });
    }
    if (kRings) have_ready(h);
    if (kRings && receive) {
      own_.barrier.wait(parity_);
      parity_ ^= 1;
      load_row(lane.h[0], own_.received[thread_]);
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      float B[S::kStates];
      load_row(B, &own_.states[0][i][lane.part * S::kStates]);
      for_each_state([&](int m, int k) {
        lane.h[m][k] = decayed<S>(h[i][m][k], lane.h[m][k], pairs[i][m].y * B[k]);
        h[i][m][k] = lane.h[m][k];
      });
    }
    if (kRings && pass) {
      store_row(next_.received[thread_], lane.h[0]);
      __syncwarp();
      if (thread_ == 0) next_.barrier.arrive();
    }
  }

  // Never stores anything, but the compiler cannot know: it has the decays worked out before the wait for the
  // warp's turn, not while the rest of the ring waits for this warp.
  __device__ void have_ready(const States (&h)[kTokens]) const {
    constexpr int kAtOnce = 16;
    static_assert(kTokens * kChannels * S::kStates % kAtOnce == 0);
    const float* const v = h[0][0];
#pragma unroll
    for (int i = 0; i < kTokens * kChannels * S::kStates; i += kAtOnce) {
      asm volatile(
          "{\n.reg .pred never;\nsetp.le.s32 never, %1, 0;\n"
          "@never st.shared.v4.f32 [%0], {%2, %3, %4, %5};\n"
          "@never st.shared.v4.f32 [%0], {%6, %7, %8, %9};\n"
          "@never st.shared.v4.f32 [%0], {%10, %11, %12, %13};\n"
          "@never st.shared.v4.f32 [%0], {%14, %15, %16, %17};\n}" ::"r"(
              device::shared_address(&own_)),
          "r"(layout_.ring), "f"(v[i]), "f"(v[i + 1]), "f"(v[i + 2]), "f"(v[i + 3]), "f"(v[i + 4]),
          "f"(v[i + 5]), "f"(v[i + 6]), "f"(v[i + 7]), "f"(v[i + 8]), "f"(v[i + 9]), "f"(v[i + 10]),
          "f"(v[i + 11]), "f"(v[i + 12]), "f"(v[i + 13]), "f"(v[i + 14]), "f"(v[i + 15])
          : "memory");
    }
  }

  // Writes the states of a chunk that fall on checkpoints.
  __device__ void store_checkpoints(const States (&h)[kTokens], int64_t t, int tokens) {
    while (checkpoint_ <= t) checkpoint_ += p_.checkpoints.every;
    for (; checkpoint_ <= t + tokens; checkpoint_ += p_.checkpoints.every) {
      const int last = static_cast<int>(checkpoint_ - t) - 1;
      States picked;
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        for_each_state([&](int m, int k) {
          if (i == 0 || i == last) picked[m][k] = h[i][m][k];
        });
      }
      lane.store(picked, p_.checkpoints.states, p_.checkpoints.offset(range_, checkpoint_), block_,
                 p_.states);
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

  const ForwardParams& p_;
  const ForwardLayout& layout_;
  const BlockChannels& block_;
  const Sequences::Range& range_;
  const int turn_, thread_, row_;
  ForwardWarp<S>&own_, &next_;
  const int mine_;
  const int64_t channel_;  // lanes without channels read the block's first ones
  int64_t checkpoint_;     // tokens before the next one
  int parity_ = 0;
  float bias_[kChannels], skip_[kChannels];
};

// A block for every (sequence, block of channels), channels fastest; its warps form rings. With kOutput
// false only states are written. `given`, for rings of one: states to go on from wherever one falls, as an
// earlier forward wrote them.
template <class S, bool kOutput>
__global__ void __launch_bounds__(ForwardShared<S>::kThreads, 512 / ForwardShared<S>::kThreads)
    forward_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ Checkpoints given,
                   const __grid_constant__ ForwardLayout layout) {
  using Scan = WarpScan<S, kOutput>;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<ForwardShared<S>*>(memory);
  const int ring = Scan::kRings ? layout.ring : 1;
  const int warp = settled(static_cast<int>(threadIdx.x / device::kWarp));
  const int turn = warp % ring, side = warp / ring;
  if constexpr (Scan::kRings) {
    if (threadIdx.x % device::kWarp == 0) shared.warps[warp].barrier.init(1);
    __syncthreads();
  }
  const BlockChannels block(p, blockIdx.x % layout.blocks,
                            ForwardShared<S>::kWarps / ring * S::kWidth);
  if (side * S::kWidth >= block.count) return;
  const int64_t s = blockIdx.x / layout.blocks;
  const Sequences::Range range = p.sequences.range(s);
  Scan scan(p, layout, block, range, side, turn, shared.warps[warp]);
  Lane<S>& lane = scan.lane;
  if (turn == 0) lane.load(lane.h, p.initial_state, p.initial_state.offset(s), block, p.states);
  if (kOutput || !given) {
    scan.run(0, range.length);
  } else {
    for (int64_t t = 0; t < range.length;) {
      const int64_t stop = given.next_stop(t, range.length);
      scan.run(t, stop);
      if (stop % given.every == 0) {
        lane.load(lane.h, given.states, given.offset(range, stop), block, p.states);
      }
      t = stop;
    }
  }
  const int64_t last = max(range.length - 1, int64_t{0}) / S::kTokens;
  if (p.final_state && turn == last % ring) {
    lane.store(lane.h, p.final_state, p.final_state.offset(s), block, p.states);
  }
}

}  // namespace hax::selective_scan
