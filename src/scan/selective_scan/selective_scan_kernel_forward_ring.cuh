// A forward whose warps form rings: a ring's warps have the same channels and take turns at the chunks of
// a sequence. What does not depend on the state before a chunk, above all the decays, they do ahead; while
// one has its turn at the states, which go from warp to warp, the others are busy with that or with the sums.
// The arithmetic is that of one warp alone.
#pragma once

#include "device/arrival_barrier.cuh"
#include "scan/selective_scan/selective_scan_kernel_forward_warp.cuh"

namespace hax::selective_scan {

template <class S>
struct RingWarp : ForwardWarp<S> {
  float received[device::kWarp][S::kStates];  // from the ring's warp before
  device::ArrivalBarrier barrier;
};

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

template <class S_, bool Output>
class RingScan : public WarpScan<S_, Output> {
 public:
  using S = S_;
  using Base = WarpScan<S, Output>;
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

  // Tokens [begin, end) of the sequence. The state of the first chunk is that of its warp's lanes.
  __device__ void run(int64_t begin, int64_t end) {
    const int ring = this->layout.ring;
    const int chunks = static_cast<int>((end - begin + kTokens - 1) / kTokens);
    const int tail = static_cast<int>(end - begin - 1) % kTokens + 1;
    const auto chunk_tokens = [&](int chunk) {
      return chunk < chunks - 1 ? kTokens : chunk == chunks - 1 ? tail : 0;
    };
    const int64_t first = this->range.begin + begin + turn_ * kTokens;
    Inflow<S, Output> in(*this, first);
    Stream<S> y_stream(p.y, this->layout.y, this->range.row, first + lane.part % kTokens,
                       this->channel);
    int tokens = chunk_tokens(turn_);
    in.fetch(tokens, lane.part);
#pragma unroll 1
    for (int chunk = turn_; chunk < chunks; chunk += ring) {
      in.states.store(own_.states[0][0]);
      share_steps(own_.pairs, in.u, in.delta, this->bias, p.softplus, lane.part, row, tokens);
      __syncwarp();
      const Elements<S> u = in.u, z = in.z;
      const int next_tokens = chunk_tokens(chunk + ring);
      in.fetch(next_tokens, lane.part);

      States h[kTokens];
      follow(h, ring > 1 && chunk > 0, ring > 1 && chunk + 1 < chunks);
      if constexpr (Output) {
        float y[S::kOwn][1];
        sum_states<S>(y, own_.states[1][0], h, lane.part);
#pragma unroll
        for (int i = 0; i < S::kOwn; ++i) {
          this->finish(y[i], i, u, z);
          if (this->mine && lane.part + i * S::kLanes < tokens) y_stream.store(i, y[i]);
        }
        y_stream.advance();
      }
      __syncwarp();
      if (p.checkpoints) store_checkpoints(h, begin + int64_t{chunk} * kTokens, tokens);
      tokens = next_tokens;
    }
  }

 private:
  // The states after each of a chunk's tokens. receive: the state before them comes from the ring; pass: that
  // after them goes on there.
  __device__ void follow(States (&h)[kTokens], bool receive, bool pass) {
    float2 pairs[kTokens][1];
    own_.pairs.load(pairs, row);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      for_each_state([&](int m, int k) {
        h[i][m][k] = decay<S>(pairs[i][m].x * lane.rate[m][k]);
      });
    }
    have_ready(h);
    if (receive) {
      own_.barrier.wait(parity_);
      parity_ ^= 1;
      load_row(lane.h[0], own_.received[thread]);
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
    if (pass) {
      store_row(next_.received[thread], lane.h[0]);
      __syncwarp();
      if (thread == 0) next_.barrier.arrive();
    }
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
          "r"(this->layout.ring), "f"(v[i]), "f"(v[i + 1]), "f"(v[i + 2]), "f"(v[i + 3]), "f"(v[i + 4]),
          "f"(v[i + 5]), "f"(v[i + 6]), "f"(v[i + 7]), "f"(v[i + 8]), "f"(v[i + 9]), "f"(v[i + 10]),
          "f"(v[i + 11]), "f"(v[i + 12]), "f"(v[i + 13]), "f"(v[i + 14]), "f"(v[i + 15])
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
      lane.store(picked, p.checkpoints.states, p.checkpoints.offset(this->range, checkpoint), this->block,
                 p.states);
    }
  }

  const int turn_;
  Shared &own_, &next_;
  int parity_ = 0;
};

}  // namespace hax::selective_scan
