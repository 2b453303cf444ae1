// A forward for many channels, two of them a lane: every warp goes through whole sequences alone. What a
// chunk needs first and last, its steps and its outputs, is done beside the scan of the chunk before or
// after: the special functions of the scan's decays then never pause.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_warp.cuh"

namespace hax::selective_scan {

template <class S>
struct PairsWarp {
  ForwardWarp<S> chunks[2];
};

template <class S_, int Warps>
class PairsScan : public WarpScan<S_> {
 public:
  using S = S_;
  using Base = WarpScan<S>;
  using Base::p, Base::lane, Base::row, Base::checkpoint, Base::for_each_state;
  using Shared = PairsWarp<S>;
  static constexpr int kTokens = S::kTokens, kChannels = S::kChannels, kWarps = Warps;
  using Sums = float[kChannels][kTokens];
  static_assert(S::kOwn == 1 && S::kSummed == kTokens);

  __device__ PairsScan(const ForwardParams& params, const ForwardLayout& layout,
                       const BlockChannels& block, const Sequences::Range& range, unsigned side,
                       int /*turn*/, Shared& own)
      : Base(params, layout, block, range, side), own_(own) {}

  __device__ static void prepare_shared(Shared&) {}

  // All of the sequence, from the lanes' state on.
  __device__ void run() {
    const int chunks = this->chunks();
    Inflow<S> in(*this, this->range.begin);
    Stream<S> y_stream(p.y, this->layout.y, this->range.row, this->range.begin + lane.part,
                       this->channel);
    Fetched<S> fetched[2];  // ahead by one and by two chunks
    const auto prepare = [&](int i, const Fetched<S>& chunk, int tokens) {
      in.states.store(own_.chunks[i].states[0][0], chunk.states);
      share_steps(own_.chunks[i].pairs, chunk.u, chunk.delta, this->bias, p.softplus, lane.part,
                  row, tokens);
    };
    Outputs before = {}, now = {};
    const auto write = [&] {
      float y[kChannels];
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        y[m] = device::warp_sums<S::kLanes>(before.sums[m], lane.part);
      }
      this->finish(y, 0, before.u, before.z);
      if (this->mine && lane.part < before.tokens) y_stream.store(0, y);
    };
    in.fetch(fetched[0], this->chunk_tokens(0), lane.part);
    in.fetch(fetched[1], this->chunk_tokens(1), lane.part);
    prepare(0, fetched[0], this->chunk_tokens(0));
    now.u = fetched[0].u, now.z = fetched[0].z, now.tokens = this->chunk_tokens(0);
    in.fetch(fetched[0], this->chunk_tokens(2), lane.part);
    __syncwarp();
    const auto step = [&](auto parity, int chunk) {
      constexpr int i = parity.value;
      scan(now.sums, own_.chunks[i]);
      write();
      if (chunk > 0) y_stream.advance();
      before = now;
      now.tokens = this->chunk_tokens(chunk + 1);
      prepare(1 - i, fetched[1 - i], now.tokens);
      now.u = fetched[1 - i].u, now.z = fetched[1 - i].z;
      in.fetch(fetched[1 - i], this->chunk_tokens(chunk + 3), lane.part);
      __syncwarp();
      if (p.checkpoints && int64_t{chunk} * kTokens + before.tokens == checkpoint) {
        lane.store(lane.h, p.checkpoints.states, p.checkpoints.offset(this->range, checkpoint),
                   this->block, p.states);
        checkpoint += p.checkpoints.every;
      }
    };
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; chunk += 2) {
      step(std::integral_constant<int, 0>{}, chunk);
      if (chunk + 1 < chunks) step(std::integral_constant<int, 1>{}, chunk + 1);
    }
    write();
  }

 private:
  // A chunk's sums over the lane's states, and what else its outputs take.
  struct Outputs {
    Sums sums;
    Elements<S> u, z;
    int tokens;
  };

  __device__ void scan(Sums& sums, const ForwardWarp<S>& chunk) {
    float2 pairs[kTokens][kChannels];
    chunk.pairs.load(pairs, row);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      float B[S::kStates], C[S::kStates];
      load_row(B, &chunk.states[0][i][lane.part * S::kStates]);
      load_row(C, &chunk.states[1][i][lane.part * S::kStates]);
      for_each_state([&](int m, int k) {
        const float d = decay<S>(pairs[i][m].x * lane.rate[m][k]);
        lane.h[m][k] = decayed<S>(d, lane.h[m][k], pairs[i][m].y * B[k]);
        sums[m][i] = k == 0 ? C[0] * lane.h[m][0] : sums[m][i] + C[k] * lane.h[m][k];
      });
    }
  }

  Shared& own_;
};

}  // namespace hax::selective_scan
