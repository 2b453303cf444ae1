// A unit's pairs of tokens (t, s) of a chunk, by a warpgroup of its own: mix and dscores to shared memory, and sums of what
// they give to y . g. A warp has 16 tokens t of each half of the chunk.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_memory.cuh"
#include "scan/ssd/ssd_kernel_forward_state.cuh"

namespace hax::ssd {

template <class S>
class ChunkPairs {
  using T = typename S::T;
  using Shared = ChunkShared<S>;
  static constexpr int kHalf = Shared::kHalf, kHalfBytes = kHalf * 128, kBlocks = kHalf / 16;
  using Accumulators = float[8][4];

 public:
  __device__ explicit ChunkPairs(const ChunkContext<S>& context)
      : context_(context), shared_(context.shared) {}

  __device__ void run() {
    wait_for_operands(shared_.group_full, 0);
    const int count = context_.count();
    for (int i = 0; i < count; ++i) {
      asm volatile("" : "+r"(lane_));  // keeps addresses from being made for all units at once
      wait_for_operands(shared_.tokens_full[i % 2], i / 2);
      float skip = 0.0f;
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        float rows[2] = {};
        if (half > 0) make_quarter<false>(kAcross, 1, 0, i, rows, skip);
        make_quarter<true>(half == 0 ? kFirst : kSecond, half, half, i, rows, skip);
        const float row = device::warp_sums<4>(rows, lane_);
        const int t = half * kHalf + warp_ * 16 + lane_ / 4;
        if (lane_ % 4 < 2) shared_.sums.rows[t + lane_ % 2 * 8] = row;
      }
      skip = device::warp_sum(skip);
      if (lane_ == 0) shared_.sums.skip[warp_] = skip;
      device::publish_to_products();
      device::arrive(shared_.pairs_full);
      arrive_by_warp(shared_.tokens_empty[i % 2]);
    }
  }

 private:
  // d = rows of half t of a by those of half s of b, columns contracted.
  template <int kColumns, class Tile>
  __device__ static void multiply(Accumulators& d, const Tile& a, int t, const Tile& b, int s) {
    const uint64_t left = device::swizzled_operand(a.address() + t * kHalfBytes, 16, 1024);
    const uint64_t right = device::swizzled_operand(b.address() + s * kHalfBytes, 16, 1024);
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) {
      const int at = k / 4 * Tile::kPanelBytes + k % 4 * 32;
      device::warpgroup_mma_shared<T>(d, device::operand_at(left, at),
                                      device::operand_at(right, at), k > 0);
    }
  }

  // Half t of later tokens with half s of earlier ones.
  template <bool kDiagonal>
  __device__ void make_quarter(int quarter, int t, int s, int i, float (&rows)[2], float& skip) {
    Accumulators dmix, scores;
    device::begin_products();
    multiply<S::kWidth>(dmix, shared_.g[i % 2], t, shared_.x[i % 2], s);
    multiply<S::kStates>(scores, shared_.C, t, shared_.B, s);
    device::end_products();
    device::wait_for_products<0>();
    forget_derived(dmix);
    forget_derived(scores);
    if (quarter == kFirst && i > 0) device::wait(shared_.pairs_empty, (i - 1) % 2);
    const auto& steps = shared_.steps[i % 2];
    const float* const sum = steps.sum + t * kHalf + warp_ * 16 + lane_ / 4;
    const float sums[2] = {sum[0], sum[8]};
#pragma unroll
    for (int j = 0; j < kBlocks; ++j) {
      if (kDiagonal && j > warp_) break;
      if (!kDiagonal || j < warp_) {
        block<false>(quarter, dmix, scores, steps, sums, rows, skip, t, s, j);
      } else {
        block<true>(quarter, dmix, scores, steps, sums, rows, skip, t, s, j);
      }
    }
  }

  // Block j of 16 tokens s.
  template <bool kDiagonal>
  __device__ void block(int quarter, const Accumulators& dmix, const Accumulators& scores,
                        const typename Shared::Steps& steps, const float (&sums)[2],
                        float (&rows)[2], float& skip, int half_t, int half_s, int j) {
    const int r = lane_ / 4, c = lane_ % 4 * 2, first = half_s * kHalf + 16 * j + c;
    uint32_t mix[4], dscores[4];
    float columns[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int n = k / 2, half = k % 2;
      const float2 from = *reinterpret_cast<const float2*>(steps.left + first + 8 * n);
      float mixed[2], gradient[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int over = 8 * n + c + e - r - 8 * half;  // s - t
        float decay = device::exp2_approx(sums[half] - (e ? from.y : from.x));
        if (kDiagonal && over > 0) decay = 0.0f;
        const float dm = dmix[2 * j + n][2 * half + e], score = scores[2 * j + n][2 * half + e];
        mixed[e] = score * decay;
        gradient[e] = dm * decay;
        float share = dm * mixed[e];
        if (kDiagonal && over == 0) {
          shared_.sums.own[first + 8 * n + e] = dm * score;
          skip += dm;
          mixed[e] += steps.D;
          share = 0.0f;
        }
        rows[half] += share;
        columns[2 * n + e] += share;
      }
      mix[k] = device::pack_pair<T>(mixed[0], mixed[1]);
      dscores[k] = device::pack_pair<T>(gradient[0], gradient[1]);
    }
    const uint32_t place = warp_ * 2048 + (lane_offset(lane_) ^ j * 32);
    device::store_matrix_x4(shared_.mix[quarter].address() + place, mix);
    device::store_matrix_x4(shared_.dscores[quarter].address() + place, dscores);
    const int k = sum_over_rows(columns, lane_);
    if (r < 4) {
      shared_.sums.columns[half_t * kBlocks + warp_][first + k / 2 * 8 + k % 2] = columns[0];
    }
  }

  const ChunkContext<S>& context_;
  Shared& shared_;
  int lane_ = threadIdx.x % device::kWarp;
  const int warp_ = __shfl_sync(0xffffffffu, threadIdx.x / device::kWarp % 4, 0);
};

}  // namespace hax::ssd
