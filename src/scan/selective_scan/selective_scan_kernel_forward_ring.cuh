// A forward whose warps form rings: a ring's warps have the same channels and take turns at the chunks of
// a sequence. What does not depend on the state before a chunk, above all the decays, they do ahead; while
// one has its turn at the states, which go from warp to warp, the others are busy with that or with the sums.
// The arithmetic is that of one warp alone.
#pragma once

#include "device/mbarrier.cuh"
#include "scan/selective_scan/selective_scan_kernel_forward_source.cuh"

namespace hax::selective_scan {

template <class S>
using RingSource = std::conditional_t<S::kVectors, AsyncSource<S>, RegisterSource<S>>;

template <class S>
struct alignas(16) RingWarp {
  std::conditional_t<kTensor<S>, RingSteps<S>, ForwardWarp<S>> chunk;
  typename RingSource<S>::Shared source;
  // The state before the warp's next chunk, from the one before in the ring, and whether it is there.
  alignas(16) float state[device::kWarp][S::kStates];
  uint64_t full;
};

// Sums over n for a lane's own elements, from the states of the chunk.
template <class S>
__device__ void sum_states(float (&y)[S::kOwn][1], const float* C,
                           const float (&h)[S::kTokens][1][S::kStates], int part) {
#pragma unroll
  for (int i = 0; i < S::kOwn; ++i) {
    float sums[S::kSummed];
#pragma unroll
    for (int j = 0; j < S::kSummed; ++j) {
      const int token = i * S::kLanes + j;
      float at[S::kStates];
      load_row(at, C + token * S::kAllStates + part * S::kStates);
      sums[j] = at[0] * h[token][0][0];
#pragma unroll
      for (int k = 1; k < S::kStates; ++k) sums[j] += at[k] * h[token][0][k];
    }
    y[i][0] = device::warp_sums<S::kLanes>(sums, part);
  }
}

template <class S_>
class RingScan : public WarpScan<S_> {
 public:
  using S = S_;
  using Base = WarpScan<S>;
  using Base::p, Base::lane, Base::thread, Base::row, Base::checkpoint, Base::for_each_state;
  using typename Base::States;
  using Shared = RingWarp<S>;
  static constexpr int kTokens = S::kTokens, kWarps = 8;
  static_assert(S::kChannels == 1);

  // turn: the warp's place in its ring, whose warps are neighbours in the block.
  __device__ RingScan(const ForwardParams& params, const ForwardLayout& layout,
                      const BlockChannels& block, const Sequences::Range& range, unsigned side,
                      int turn, Shared& own)
      : Base(params, layout, block, range, side),
        turn_(turn),
        own_(own),
        next_((&own)[turn + 1 < layout.ring ? 1 : -turn]) {}

  __device__ static void prepare_shared(Shared& own) {
    if (threadIdx.x % device::kWarp == 0) device::init_mbarrier(own.full, device::kWarp);
    __syncthreads();
  }

  // All of the sequence, from the lanes' state on, which the ring's first warp has.
  __device__ void run() {
    const int ring = this->layout.ring;
    const int chunks = this->chunks();
    const int64_t first = this->range.begin + turn_ * kTokens;
    RingSource<S> source(*this, own_.source, first, turn_, ring);
    Stream<S> y_stream(p.y, this->layout.y, this->range.row, first + lane.part % kTokens,
                       this->channel);
    if (turn_ == 0) pass(own_);
#pragma unroll 1
    for (int chunk = turn_; chunk < chunks; chunk += ring) {
      const int tokens = this->chunk_tokens(chunk);
      Elements<S> u, delta, z;
      States h[kTokens];
      float y[S::kOwn][1];
      if constexpr (kTensor<S>) {
        source.open();
        source.steps(u, delta);
        follow_products(h, y, source, u, delta, tokens, chunk);
      } else {
        source.open(own_.chunk.states[0][0]);
        source.steps(u, delta);
        share_steps(own_.chunk.pairs, u, delta, this->bias, p.softplus, lane.part, row, tokens);
        __syncwarp();
        source.ahead(chunk);
        follow(h);
        sum_states<S>(y, own_.chunk.states[1][0], h, lane.part);
      }
      source.outputs(u, z);
#pragma unroll
      for (int i = 0; i < S::kOwn; ++i) {
        this->finish(y[i], i, u, z);
        if (this->mine && lane.part + i * S::kLanes < tokens) y_stream.store(i, y[i]);
      }
      y_stream.advance();
      __syncwarp();
      source.close();
      if (p.checkpoints) store_checkpoints(h, int64_t{chunk} * kTokens, tokens);
    }
  }

 private:
  // The states after each of a chunk's tokens; that before it comes from the ring, the last goes on there.
  __device__ void follow(States (&h)[kTokens]) {
    float2 pairs[kTokens][1];
    own_.chunk.pairs.load(pairs, row);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      for_each_state([&](int m, int k) { h[i][m][k] = decay<S>(pairs[i][m].x * lane.rate[m][k]); });
    }
    have_ready(h);
    take_turn(h, [&](int i, float(&x)[S::kStates]) {
      load_row(x, &own_.chunk.states[0][i][lane.part * S::kStates]);
#pragma unroll
      for (float& value : x) value *= pairs[i][0].y;
    });
  }

  __device__ void follow_products(States (&h)[kTokens], float (&y)[S::kOwn][1],
                                  RingSource<S>& source, const Elements<S>& u,
                                  const Elements<S>& delta, int tokens, int chunk) {
    static_assert(S::kOwn == 2 && kTokens == 8);
    uint32_t dtu[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float plain = delta.at[i].get(0) + this->bias[0];
      const float soft = settled(step_size<S>(plain, true));
      float dt = p.softplus ? soft : plain;
      if (lane.part + 4 * i >= tokens) dt = 0.0f;
      own_.chunk.store(lane.part + 4 * i, row, dt);
      dtu[i] = split_bf16(dt * u.at[i].get(0));
    }
    const InputColumns B[2] = {InputColumns(source.input_states(lane.part, row)),
                               InputColumns(source.input_states(lane.part + 4, row))};
    const SumColumn C(source.sum_states(row / 2 + row % 2 * 4, lane.part));
    __syncwarp();
    source.ahead(chunk);
    float dt[kTokens];
    own_.chunk.load(dt, row);
    float x[kTokens][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool own = lane.part == i;
      const uint32_t both[4] = {own ? dtu[0] : 0, 0, 0, own ? dtu[1] : 0};
      float even[4] = {}, odd[4] = {};
      const uint32_t evens[2] = {B[0].even, B[1].even}, odds[2] = {B[0].odd, B[1].odd};
      device::mma_16x8x16<bf16>(even, both, evens);
      device::mma_16x8x16<bf16>(odd, both, odds);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        x[i][k] = k % 2 ? odd[k / 2] : even[k / 2];
        x[i + 4][k] = k % 2 ? odd[2 + k / 2] : even[2 + k / 2];
      }
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      for_each_state([&](int m, int k) { h[i][m][k] = decay<S>(dt[i] * lane.rate[m][k]); });
    }
    have_ready(h);
    take_turn(h, [&](int i, float(&to)[S::kStates]) {
#pragma unroll
      for (int k = 0; k < 4; ++k) to[k] = x[i][k];
    });
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float sums[4];
      tensor_sums(sums, h[i][0], h[i + 4][0], C);
      y[0][0] = i == 0 || lane.part == i ? sums[0] : y[0][0];
      y[1][0] = i == 0 || lane.part == i ? sums[3] : y[1][0];
    }
  }

  // h: decays before, states after. inputs(i, x): what token i adds to the lane's states.
  template <class Inputs>
  __device__ void take_turn(States (&h)[kTokens], Inputs&& inputs) {
    device::wait(own_.full, parity_);
    load_row(lane.h[0], own_.state[thread]);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      float x[S::kStates];
      inputs(i, x);
      for_each_state([&](int m, int k) {
        lane.h[m][k] = decayed<S>(h[i][m][k], lane.h[m][k], x[k]);
        h[i][m][k] = lane.h[m][k];
      });
    }
    pass(next_);
    parity_ ^= 1;
  }

  __device__ void pass(Shared& to) const {
    store_row(to.state[thread], lane.h[0]);
    device::arrive(to.full);
  }

  // Never stores anything, but the compiler cannot know: it has the decays worked out before the wait for the
  // warp's turn, not while the rest of the ring waits for this warp.
  __device__ void have_ready(const States (&h)[kTokens]) const {
    constexpr int kAtOnce = 16;
    static_assert(kTokens * S::kStates % kAtOnce == 0);
    const float* const v = h[0][0];
#pragma unroll
    for (int i = 0; i < kTokens * S::kStates; i += kAtOnce) {
      asm volatile(
          "{\n.reg .pred never;\nsetp.le.s32 never, %1, 0;\n"
          "@never st.shared.v4.f32 [%0], {%2, %3, %4, %5};\n"
          "@never st.shared.v4.f32 [%0], {%6, %7, %8, %9};\n"
          "@never st.shared.v4.f32 [%0], {%10, %11, %12, %13};\n"
          "@never st.shared.v4.f32 [%0], {%14, %15, %16, %17};\n}" ::"r"(
              device::shared_address(&own_)),
          "r"(this->layout.ring), "f"(v[i]), "f"(v[i + 1]), "f"(v[i + 2]), "f"(v[i + 3]),
          "f"(v[i + 4]), "f"(v[i + 5]), "f"(v[i + 6]), "f"(v[i + 7]), "f"(v[i + 8]), "f"(v[i + 9]),
          "f"(v[i + 10]), "f"(v[i + 11]), "f"(v[i + 12]), "f"(v[i + 13]), "f"(v[i + 14]),
          "f"(v[i + 15])
          : "memory");
    }
  }

  // Writes the states of a chunk that fall on checkpoints.
  __device__ void store_checkpoints(const States (&h)[kTokens], int64_t t, int tokens) {
    while (checkpoint <= t) checkpoint += p.checkpoints.every;
    for (; checkpoint <= t + tokens; checkpoint += p.checkpoints.every) {
      const int last = static_cast<int>(checkpoint - t) - 1;
      States picked;
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        for_each_state([&](int m, int k) {
          if (i == 0 || i == last) picked[m][k] = h[i][m][k];
        });
      }
      lane.store(picked, p.checkpoints.states, p.checkpoints.offset(this->range, checkpoint),
                 this->block, p.states);
    }
  }

  const int turn_;
  Shared &own_, &next_;
  uint32_t parity_ = 0;
};

}  // namespace hax::selective_scan
