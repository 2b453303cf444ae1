// dB or dC of a chunk, by a warpgroup each that sums them over units in registers, and that brings what units need: x and dh,
// or g and h.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_memory.cuh"
#include "scan/ssd/ssd_kernel_forward_state.cuh"

namespace hax::ssd {

template <class S, bool kOfC>
class ChunkGroup {
  using T = typename S::T;
  using Shared = ChunkShared<S>;
  static constexpr int Q = S::kTokens, kHalf = Shared::kHalf, kHalfBytes = kHalf * 128;
  using Half = device::WarpTile<16, S::kStates>;  // 64 tokens, 16 a warp

 public:
  __device__ explicit ChunkGroup(const ChunkContext<S>& context)
      : context_(context), shared_(context.shared) {}

  __device__ void run() {
    const int count = context_.count();
    bring_tokens(0);
    bring_state(0);
    if (count > 1) bring_tokens(1);
    first_.clear();
    second_.clear();
    wait_for_operands(shared_.group_full, 0);
    for (int i = 0; i < count; ++i) {
      asm volatile("" : "+r"(lane_));  // keeps addresses from being made for all units at once
      if (kOfC) {
        device::wait(shared_.states_full[0], i % 2);
        device::wait(shared_.states_full[1], i % 2);
        multiply_states(i);
        arrive_by_warp(shared_.states_empty[1]);
      }
      device::wait(shared_.tokens_full[i % 2], i / 2 % 2);
      wait_for_operands(shared_.states_full[kState], i);
      add_weighted(i);
      arrive_by_warp(shared_.states_empty[kState]);
      arrive_by_warp(shared_.tokens_empty[i % 2]);
      wait_for_operands(shared_.pairs_full, i);
      if (i + 1 < count) {
        device::wait(shared_.states_empty[kState], i % 2);
        bring_state(i + 1);
      }
      add_pairs();
      arrive_by_warp(shared_.pairs_empty);
      if (i + 2 < count) {
        device::wait(shared_.tokens_empty[i % 2], i / 2 % 2);
        bring_tokens(i + 2);
      }
    }
    store(first_, 0);
    store(second_, 1);
  }

 private:
  static constexpr int kState = kOfC ? 0 : 1;
  static constexpr int kSteps = 2;  // of 16 columns that products are begun with at a time

  __device__ Team<kWarpgroup> whole() const { return {warp_ * device::kWarp + lane_}; }
  __device__ void bring_tokens(int i) {
    const Team<kWarpgroup> team = whole();
    const Unit unit = context_.unit(i);
    const ChunkAt& chunk = context_.chunk();
    const Tensor& from = kOfC ? context_.plan.g : context_.p.x;
    const bool vectors = kOfC ? context_.access.g : context_.access.x;
    const T* const first = from.at<T>(chunk.sequence.row, chunk.token()) +
                           unit.head * from.stride[2] + unit.first * from.stride[3];
    fetch_panels(team, kOfC ? shared_.g[i % 2] : shared_.x[i % 2],
                 Rows<T>{first, from.stride[1], from.stride[3], chunk.tokens, unit.width, vectors});
    if (vectors) device::arrive_on_copies(shared_.tokens_full[i % 2]);
    const float* const steps = context_.plan.steps + context_.row(unit) * 3 * Q;
    const int t = team.thread;
    const float sum = steps[Q + t];
    auto& to = shared_.steps[i % 2];
    if (kOfC) {
      to.from_start[t] = device::exp2_approx(sum);
    } else {
      const float dt = steps[t], end = steps[2 * Q - 1];
      to.dt[t] = dt;
      to.sum[t] = sum;
      to.left[t] = sum - log2_approx(dt);
      to.to_end[t] = device::exp2_approx(end - sum);
      if (t == 0) {
        const float* const head = context_.plan.decays + context_.row(unit) * 4;
        to.A = head[2];
        to.D = head[3];
      }
    }
    device::arrive(shared_.tokens_full[i % 2]);
    if (!vectors) device::arrive(shared_.tokens_full[i % 2]);
  }
  __device__ static float log2_approx(float x) {
    float y;
    asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  __device__ void bring_state(int i) {
    const Team<kWarpgroup> team = whole();
    const int64_t units = context_.plan.units(context_.p.heads);
    const int64_t place = context_.chunk().place + (kOfC ? 0 : context_.plan.chunks.count);
    fetch_compact_panels(team, kOfC ? shared_.h : shared_.dh,
                         static_cast<const T*>(context_.plan.states) +
                             (place * units + context_.block().first + i) * S::kStateSize);
    device::arrive_on_copies(shared_.states_full[kState]);
  }

  // (weight tokens) states
  __device__ void add_weighted(int i) {
    const uint32_t tokens = (kOfC ? shared_.g[i % 2] : shared_.x[i % 2]).address();
    const uint64_t states = device::swizzled_operand((kOfC ? shared_.h : shared_.dh).address(),
                                                     Shared::States::kPanelBytes, 1024);
    const auto add = [&](Half& sums, int half) {
      const int row = half * kHalf + warp_ * 16;
      const uint32_t upper = weight(row + lane_ / 4, i), lower = weight(row + lane_ / 4 + 8, i);
#pragma unroll
      for (int k = 0; k < S::kWidth / 16; k += kSteps) {
        uint32_t a[kSteps][4];
#pragma unroll
        for (int j = 0; j < kSteps; ++j) {
          device::load_matrix_x4(a[j], tokens + row * 128 + (lane_offset(lane_) ^ (k + j) * 32));
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            a[j][e] = device::multiply_pairs<T>(a[j][e], e % 2 ? lower : upper);
          }
        }
        device::begin_products();
#pragma unroll
        for (int j = 0; j < kSteps; ++j) {
          device::warpgroup_mma<T, true>(sums.values[0], a[j],
                                         device::operand_at(states, (k + j) * 2048));
        }
        finish_products();
      }
    };
    add(first_, 0);
    add(second_, 1);
  }

  __device__ uint32_t weight(int t, int i) const {
    const auto& steps = shared_.steps[i % 2];
    return device::make_weight<T>(kOfC ? steps.from_start[t] : steps.to_end[t] * steps.dt[t]);
  }

  // dscores with the other tokens
  __device__ void add_pairs() {
    const auto& rows = kOfC ? shared_.B : shared_.C;
    const auto add = [&](Half& sums, int quarter, int other) {
      const uint64_t left = device::swizzled_operand(shared_.dscores[quarter].address(), 16, 1024);
      const uint64_t right = device::swizzled_operand(rows.address() + other * kHalfBytes,
                                                      Shared::Rows::kPanelBytes, 1024);
#pragma unroll
      for (int k = 0; k < kHalf / 16; ++k) {
        device::warpgroup_mma_add<T, !kOfC, true>(sums.values[0],
                                                  device::operand_at(left, k * (kOfC ? 32 : 2048)),
                                                  device::operand_at(right, k * 2048));
      }
    };
    device::begin_products();
    add(first_, kFirst, 0);
    add(kOfC ? second_ : first_, kAcross, kOfC ? 0 : 1);
    add(second_, kSecond, 1);
    finish_products();
  }

  __device__ void finish_products() {
    device::end_products();
    device::wait_for_products<0>();
    forget_derived(first_.values[0]);
    forget_derived(second_.values[0]);
  }

  // h . dh: the diagonal of a product, 16 rows a warp.
  __device__ void multiply_states(int i) {
    float products[2][4] = {};
    const uint32_t h = shared_.h.address() + warp_ * 2048, dh = shared_.dh.address() + warp_ * 2048;
#pragma unroll
    for (int k = 0; k < S::kStates / 16; ++k) {
      const int panel = k / 4 * Shared::States::kPanelBytes;
      uint32_t a[4], b[4];
      device::load_matrix_x4(a, h + panel + (lane_offset(lane_) ^ k % 4 * 32));
      device::load_matrix_x4(b, dh + panel + (right_lane_offset(lane_) ^ k % 4 * 32));
      device::mma_16x8x16<T>(products[0], a, {b[0], b[1]});
      device::mma_16x8x16<T>(products[1], a, {b[2], b[3]});
    }
    const int over = lane_ / 4 - lane_ % 4 * 2;
    float sum = over == 0   ? products[0][0] + products[1][2]
                : over == 1 ? products[0][1] + products[1][3]
                            : 0.0f;
    sum = device::warp_sum(sum);
    if (lane_ == 0) shared_.through[i % 2][warp_] = sum;
  }

  __device__ void store(Half& sums, int half) {
    store_group_gradient<S>(sums, context_.p, context_.plan, context_.access, context_.chunk(),
                            context_.block().group, context_.block().share, kOfC,
                            half * kHalf + warp_ * 16, 0);
  }

  const ChunkContext<S>& context_;
  Shared& shared_;
  int lane_ = threadIdx.x % device::kWarp;
  const int warp_ = __shfl_sync(0xffffffffu, threadIdx.x / device::kWarp % 4, 0);
  Half first_, second_;  // of the chunk's tokens
};

}  // namespace hax::ssd
