// A forward for many channels with bf16 activations, two channels a lane: tensor cores form the states' inputs
// B dt u and their sums with C. Every warp goes through whole sequences alone.
//
// Operands as lanes hold them, lane = 4 row + part: row names a pair of channels, part four states and the
// tokens part, part + 4 that are the lane's own.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_warp.cuh"

namespace hax::selective_scan {

// kSegment: of a segment, whose steps are summed up.
template <class S_, int Warps, bool kSegment = false>
class TensorScan : public WarpScan<S_> {
 public:
  using S = S_;
  using T = typename S::T;
  using Base = WarpScan<S>;
  using Base::p, Base::lane, Base::row, Base::checkpoint, Base::for_each_state;
  static constexpr int kTokens = S::kTokens, kChannels = 2, kWarps = Warps, kOwn = S::kOwn;
  static_assert(type_of<T> == Type::bf16 && S::kLanes == 4 && S::kStates == 4);
  static_assert(S::kChannels == kChannels && kOwn * 4 == kTokens && kOwn <= 2);
  struct alignas(16) Shared {
    PairSteps<S> steps;
  };

  __device__ static void prepare_shared(Shared&) {}

  __device__ TensorScan(const ForwardParams& params, const ForwardLayout& layout,
                        const BlockChannels& block, const Sequences::Range& range, unsigned side,
                        int /*turn*/, Shared& own)
      : Base(params, layout, block, range, side),
        own_(own),
        token_C_(row / 2 + (kOwn == 2 ? row % 2 * 4 : 0)) {
    const int64_t token = range.begin;
    B_ = reinterpret_cast<const char*>(
        params.B.template at<T>(range.row, token + lane.part, block.group, row * 2));
    C_ = reinterpret_cast<const char*>(
        params.C.template at<T>(range.row, token + token_C_, block.group, lane.part * 4));
  }

  // Writes the sum of the segment's steps so far, as that up to the end of a walk.
  __device__ void store_elapsed(int walk) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float sum = device::warp_sum<S::kLanes>(elapsed_[m]);
      if (this->mine && lane.part == 0) {
        *this->layout.elapsed.template at<float>(place_, walk, this->channel + m) = sum;
      }
    }
  }
  __device__ void set_place(int64_t place) { place_ = place; }

  // All of the sequence, from the lanes' state on.
  __device__ void run() {
    const int chunks = this->chunks();
    const int64_t begin = this->range.begin + lane.part;
    Streams in = {{p.u, this->layout.u, this->range.row, begin, this->channel},
                  {p.delta, this->layout.delta, this->range.row, begin, this->channel},
                  // Read even where there is none.
                  {p.z ? p.z : p.u, this->layout.z, this->range.row, begin, this->channel}};
    Stream<S> y_stream(p.y, this->layout.y, this->range.row, begin, this->channel);
    Inputs ahead;
    fetch(ahead, in, this->chunk_tokens(0));
    int passed = 0, walk = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
      const int tokens = this->chunk_tokens(chunk);
      Chunk now;
      prepare(now, ahead, tokens);
      fetch(ahead, in, this->chunk_tokens(chunk + 1));
      __syncwarp();
      Sums y;
      scan(y, now);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        this->finish(y[i], i, now.u, now.z);
        if (this->mine && lane.part + 4 * i < tokens) y_stream.store(i, y[i]);
      }
      y_stream.advance();
      __syncwarp();
      if constexpr (!kSegment) {
        if (p.checkpoints && int64_t{chunk} * kTokens + tokens == checkpoint) {
          lane.store(lane.h, p.checkpoints.states, p.checkpoints.offset(this->range, checkpoint),
                     this->block, p.states);
          checkpoint += p.checkpoints.every;
        }
      } else {
        if (++passed == this->layout.walk / kTokens) {
          store_elapsed(walk++);
          passed = 0;
        }
      }
    }
  }

 private:
  struct Streams {
    Stream<S> u, delta, z;
  };
  struct Inputs {
    Elements<S> u, delta, z;
    uint32_t B[kOwn];  // of the lane's own tokens, states 2 row and 2 row + 1
    uint2 C;           // of token token_C_, the lane's states
  };
  struct Chunk {
    Elements<S> u, z;
    uint32_t dtu[kOwn][2];  // of the lane's own tokens and channels
    InputColumns B[kOwn];
    uint2 C;
  };
  using Sums = float[kOwn][2];

  __device__ void fetch(Inputs& to, Streams& in, int tokens) {
    const int own = tokens - lane.part;
    in.u.load(to.u, own);
    in.delta.load(to.delta, own);
    in.z.load(to.z, own);
    in.u.advance();
    in.delta.advance();
    in.z.advance();
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      to.B[i] = 0;
      if (4 * i < own) {
        to.B[i] = __ldg(reinterpret_cast<const uint32_t*>(B_ + i * this->layout.B_lanes));
      }
    }
    to.C = make_uint2(0, 0);
    if (token_C_ < tokens) to.C = __ldg(reinterpret_cast<const uint2*>(C_));
    B_ += this->layout.B;
    C_ += this->layout.C;
  }

  __device__ void prepare(Chunk& to, const Inputs& from, int tokens) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      float dt[2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const float plain = from.delta.at[i].get(m) + this->bias[m];
        const float soft = settled(step_size<S>(plain, true));
        dt[m] = p.softplus ? soft : plain;
        if (lane.part + 4 * i >= tokens) dt[m] = 0.0f;
        to.dtu[i][m] = split_bf16(dt[m] * from.u.at[i].get(m));
        if constexpr (kSegment) elapsed_[m] += dt[m];
      }
      own_.steps.store(lane.part + 4 * i, row, make_float2(dt[0], dt[1]));
      to.B[i] = InputColumns(from.B[i]);
    }
    to.u = from.u;
    to.z = from.z;
    to.C = from.C;
  }

  __device__ void scan(Sums& sums, const Chunk& chunk) {
    const SumColumn C(chunk.C);
    float2 dt[kTokens];
    own_.steps.load(dt, row);
#pragma unroll
    for (int half = 0; half < kOwn; ++half) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool own = lane.part == j;
        const uint32_t dtu[2] = {own ? chunk.dtu[half][0] : 0, own ? chunk.dtu[half][1] : 0};
        float x[2][4] = {};  // of even and odd states
        device::mma_16x8x8_bf16(x[0], dtu, chunk.B[half].even);
        device::mma_16x8x8_bf16(x[1], dtu, chunk.B[half].odd);
        const float2 step = dt[half * 4 + j];
        for_each_state([&](int m, int k) {
          const float d = decay<S>((m == 0 ? step.x : step.y) * lane.rate[m][k]);
          lane.h[m][k] = decayed<S>(d, lane.h[m][k], x[k % 2][m * 2 + k / 2]);
        });
        float sum[4];
        tensor_sums(sum, lane.h[0], lane.h[1], C);
        sums[half][0] = own || j == 0 ? sum[half] : sums[half][0];
        sums[half][1] = own || j == 0 ? sum[2 + half] : sums[half][1];
      }
    }
  }

  Shared& own_;
  const int token_C_;
  const char *B_, *C_;
  float elapsed_[2] = {};
  int64_t place_ = 0;
};

}  // namespace hax::selective_scan
