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

template <class S_, bool Output>
class PairsScan : public WarpScan<S_, Output> {
 public:
  using S = S_;
  using Base = WarpScan<S, Output>;
  using Base::p, Base::lane, Base::row, Base::checkpoint, Base::for_each_state;
  using Shared = PairsWarp<S>;
  static constexpr int kTokens = S::kTokens, kChannels = S::kChannels, kWarps = 4;
  using Sums = float[kChannels][kTokens];
  static_assert(S::kOwn == 1 && S::kSummed == kTokens);

  __device__ PairsScan(const ForwardParams& params, const ForwardLayout& layout,
                       const BlockChannels& block, const Sequences::Range& range, unsigned side,
                       int /*turn*/, Shared& own)
      : Base(params, layout, block, range, side), own_(own) {}

  // Tokens [begin, end) of the sequence, from the lanes' state on.
  __device__ void run(int64_t begin, int64_t end) {
    const int chunks = static_cast<int>((end - begin + kTokens - 1) / kTokens);
    const int tail = static_cast<int>(end - begin - 1) % kTokens + 1;
    const auto chunk_tokens = [&](int chunk) {
      return chunk < chunks - 1 ? kTokens : chunk == chunks - 1 ? tail : 0;
    };
    const int64_t first = this->range.begin + begin;
    Inflow<S, Output> in(*this, first);
    Stream<S> y_stream(p.y, this->layout.y, this->range.row, first + lane.part, this->channel);
    const auto prepare = [&](ForwardWarp<S>& chunk, int tokens) {
      in.states.store(chunk.states[0][0]);
      share_steps(chunk.pairs, in.u, in.delta, this->bias, p.softplus, lane.part, row, tokens);
    };

    int tokens = chunk_tokens(0), next_tokens = chunk_tokens(1), last_tokens = 0;
    in.fetch(tokens, lane.part);
    prepare(own_.chunks[0], tokens);
    Elements<S> u = in.u, z = in.z, last_u = u, last_z = z;
    in.fetch(next_tokens, lane.part);
    Sums last_sums = {};
    const auto write = [&] {
      float y[kChannels];
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
        y[m] = device::warp_sums<S::kLanes>(last_sums[m], lane.part);
      }
      this->finish(y, 0, last_u, last_z);
      if (this->mine && lane.part < last_tokens) y_stream.store(0, y);
    };
    __syncwarp();
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      Sums sums;
      scan(sums, own_.chunks[chunk % 2]);
      if constexpr (Output) {
        write();
        if (chunk > 0) y_stream.advance();
      }
      prepare(own_.chunks[(chunk + 1) % 2], next_tokens);
      const Elements<S> next_u = in.u, next_z = in.z;
      const int far_tokens = chunk_tokens(chunk + 2);
      in.fetch(far_tokens, lane.part);
      __syncwarp();
      if (p.checkpoints && begin + int64_t{chunk} * kTokens + tokens == checkpoint) {
        lane.store(lane.h, p.checkpoints.states, p.checkpoints.offset(this->range, checkpoint),
                   this->block, p.states);
        checkpoint += p.checkpoints.every;
      }
#pragma unroll
      for (int m = 0; m < kChannels; ++m) {
#pragma unroll
        for (int i = 0; i < kTokens; ++i) last_sums[m][i] = sums[m][i];
      }
      last_u = u, last_z = z, last_tokens = tokens;
      u = next_u, z = next_z, tokens = next_tokens;
      next_tokens = far_tokens;
    }
    if (Output) write();
  }

 private:
  __device__ void scan(Sums& sums, const ForwardWarp<S>& chunk) {
    float2 pairs[kTokens][kChannels];
    chunk.pairs.load(pairs, row);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      float B[S::kStates], C[S::kStates];
      load_row(B, &chunk.states[0][i][lane.part * S::kStates]);
      if (Output) load_row(C, &chunk.states[1][i][lane.part * S::kStates]);
      for_each_state([&](int m, int k) {
        const float d = decay<S>(pairs[i][m].x * lane.rate[m][k]);
        lane.h[m][k] = decayed<S>(d, lane.h[m][k], pairs[i][m].y * B[k]);
        if (Output) sums[m][i] = k == 0 ? C[0] * lane.h[m][0] : sums[m][i] + C[k] * lane.h[m][k];
      });
    }
  }

  Shared& own_;
};

}  // namespace hax::selective_scan
