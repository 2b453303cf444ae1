// dx of a unit and its sums by token, by a warpgroup of its own: 64 tokens at a time, 16 a warp.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_finish.cuh"
#include "scan/ssd/ssd_kernel_forward_state.cuh"

namespace hax::ssd {

template <class S>
class ChunkTokens {
  using T = typename S::T;
  using Shared = ChunkShared<S>;
  static constexpr int kHalf = Shared::kHalf, kHalfBytes = kHalf * 128;
  using Accumulators = float[8][4];

 public:
  __device__ explicit ChunkTokens(const ChunkContext<S>& context)
      : context_(context), shared_(context.shared) {}

  __device__ void run() {
    wait_for_operands(shared_.group_full, 0);
    const int count = context_.count();
    for (int i = 0; i < count; ++i) {
      asm volatile("" : "+r"(lane_));  // keeps addresses from being made for all units at once
      device::wait(shared_.tokens_full[i % 2], i / 2 % 2);
      wait_for_operands(shared_.states_full[0], i);
      float from_h[2];
      Accumulators d;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        multiply(d, shared_.C, half, shared_.h);
        from_h[half] =
            dot(d, shared_.g[i % 2], half) * shared_.steps[i % 2].from_start[sum_token(half)];
      }
      arrive_by_warp(shared_.states_empty[0]);
      if (context_.p.dD && context_.plan.skip_columns > 1) store_skip_gradient(i);
      wait_for_operands(shared_.states_full[1], i);
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        multiply(d, shared_.B, half, shared_.dh);
        if (half == 1) arrive_by_warp(shared_.states_empty[1]);
        scale(d, half, i);
        const float from_dh = dot(d, shared_.x[i % 2], half);
        if (half == 0) {
          wait_for_operands(shared_.pairs_full, i);
          put_sum(shared_.sums.from_h, 0, from_h[0]);
          put_sum(shared_.sums.from_h, 1, from_h[1]);
        }
        put_sum(shared_.sums.from_dh, half, from_dh);
        if (context_.p.dx) add_pairs(d, half, i);
        // All warps' sums are there, and their products with this half of mix done.
        device::wait_at_barrier(kBarrier, kWarpgroup);
        if (context_.p.dx) store(d, half, i);
      }
      const bool finishes = warp_ == i % 4;
      if (!finishes) {
        arrive_by_warp(shared_.tokens_empty[i % 2]);
        arrive_by_warp(shared_.pairs_empty);
      } else {
        ChunkFinish<S> finish(shared_, i, lane_);
        arrive_by_warp(shared_.tokens_empty[i % 2]);
        arrive_by_warp(shared_.pairs_empty);
        finish.store(context_, context_.unit(i), lane_);
      }
    }
  }

 private:
  static constexpr int kBarrier = 1;

  // d = a half of the rows times the state's rows.
  __device__ static void multiply(Accumulators& d, const typename Shared::Rows& rows, int half,
                                  const typename Shared::States& state) {
    const uint64_t left = device::swizzled_operand(rows.address() + half * kHalfBytes, 16, 1024);
    const uint64_t right = device::swizzled_operand(state.address(), 16, 1024);
    device::begin_products();
#pragma unroll
    for (int k = 0; k < S::kStates / 16; ++k) {
      device::warpgroup_mma_shared<T>(
          d, device::operand_at(left, k / 4 * Shared::Rows::kPanelBytes + k % 4 * 32),
          device::operand_at(right, k / 4 * Shared::States::kPanelBytes + k % 4 * 32), k > 0);
    }
    finish_products(d);
  }
  __device__ static void finish_products(Accumulators& d) {
    device::end_products();
    device::wait_for_products<0>();
    forget_derived(d);
  }

  // By the decay to the chunk's end.
  __device__ void scale(Accumulators& d, int half, int i) const {
    const float* const by = shared_.steps[i % 2].to_end + token(half);
    const float weights[2] = {by[0], by[8]};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (int e = 0; e < 4; ++e) d[k][e] *= weights[e / 2];
    }
  }

  // dx = dt d + mix^T g + D g, the latter part of mix where D has no rows.
  __device__ void add_pairs(Accumulators& d, int half, int i) {
    const float* const by = shared_.steps[i % 2].dt + token(half);
    const float dt[2] = {by[0], by[8]};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (int e = 0; e < 4; ++e) d[k][e] *= dt[e / 2];
    }
    const auto add = [&](int quarter, int t) {
      const uint64_t left = device::swizzled_operand(shared_.mix[quarter].address(), 16, 1024);
      const uint64_t right =
          device::swizzled_operand(shared_.g[i % 2].address() + t * kHalfBytes, 16, 1024);
#pragma unroll
      for (int k = 0; k < kHalf / 16; ++k) {
        device::warpgroup_mma_add<T, true, true>(d, device::operand_at(left, k * 2048),
                                                 device::operand_at(right, k * 2048));
      }
    };
    device::begin_products();
    add(half == 0 ? kFirst : kSecond, half);
    if (half == 0) add(kAcross, 1);
    finish_products(d);
    if (context_.p.D && context_.p.D.ndim == 2) add_skip(d, half, i);
  }
  __device__ void add_skip(Accumulators& d, int half, int i) {
    const Unit unit = context_.unit(i);
    if (half == 0) {
      const int column = warp_ * device::kWarp + lane_;
      if (column < S::kWidth) {
        shared_.D[column] = column < unit.width
                                ? *context_.p.D.template at<float>(unit.head, unit.first + column)
                                : 0.0f;
      }
      device::wait_at_barrier(kBarrier, kWarpgroup);
    }
    const auto* const weights = reinterpret_cast<const float2*>(shared_.D) + lane_ % 4;
    each_pair(shared_.g[i % 2], half, [&](int k, int row, float2 g) {
      d[k][2 * row] += weights[4 * k].x * g.x;
      d[k][2 * row + 1] += weights[4 * k].y * g.y;
    });
  }

  // dD by columns.
  __device__ void store_skip_gradient(int i) {
    const int column = warp_ * device::kWarp + lane_;
    if (column >= S::kWidth) return;
    float sum = 0.0f;
#pragma unroll 1
    for (int t = 0; t < S::kTokens; ++t) {
      const float2 x = device::unpack_pair<T>(shared_.x[i % 2].word(t, column & ~1));
      const float2 g = device::unpack_pair<T>(shared_.g[i % 2].word(t, column & ~1));
      sum += column % 2 ? x.y * g.y : x.x * g.x;
    }
    const CudaBackwardPlan& plan = context_.plan;
    const int64_t row =
        context_.chunk().place * plan.units(context_.p.heads) + context_.unit(i).index;
    plan.dD[row * plan.skip_columns + column] = sum;
  }

  // f(8 columns' number, which of the lane's rows, two neighbours of a tile)
  template <class F>
  __device__ void each_pair(const typename Shared::Tokens& tile, int half, F&& f) const {
    const char* const rows =
        reinterpret_cast<const char*>(tile.elements) + (half * kHalf + warp_ * 16) * 128;
    int place = lane_ / 4 * 144 + lane_ % 4 * 4;
    asm volatile("" : "+r"(place));  // keeps the 16 addresses from taking registers
#pragma unroll
    for (int k = 0; k < 8; ++k) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        f(k, row,
          device::unpack_pair<T>(
              *reinterpret_cast<const uint32_t*>(rows + (place ^ k * 16) + row * 1024)));
      }
    }
  }

  // Sum over the columns of d times a tile, of token sum_token.
  __device__ float dot(const Accumulators& d, const typename Shared::Tokens& tile, int half) const {
    float sums[2] = {};
    each_pair(tile, half, [&](int k, int row, float2 pair) {
      sums[row] += d[k][2 * row] * pair.x;
      sums[row] += d[k][2 * row + 1] * pair.y;
    });
    return device::warp_sums<4>(sums, lane_);
  }
  __device__ int sum_token(int half) const { return token(half) + lane_ % 2 * 8; }
  __device__ void put_sum(float (&to)[S::kTokens], int half, float sum) const {
    if (lane_ % 4 < 2) to[sum_token(half)] = sum;
  }
  // The lane's first row.
  __device__ int token(int half) const { return half * kHalf + warp_ * 16 + lane_ / 4; }

  // Through this warp's rows of a tile of mix.
  __device__ void store(const Accumulators& dx, int half, int i) {
    const Unit unit = context_.unit(i);
    const uint32_t rows = shared_.mix[half].address() + warp_ * 2048;
    const int offset = lane_offset(lane_);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t words[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* const from = &dx[2 * k + j / 2][j % 2 * 2];
        words[j] = device::pack_pair<T>(from[0], from[1]);
      }
      device::store_matrix_x4(rows + (offset ^ k * 32), words);
    }
    __syncwarp();
    const Tensor& dx_tensor = context_.p.dx;
    const ChunkAt& chunk = context_.chunk();
    const int first = half * kHalf + warp_ * 16, tokens = chunk.tokens - first;
    T* const to = dx_tensor.at<T>(chunk.sequence.row, chunk.token() + first, unit.head, unit.first);
    const char* const from =
        reinterpret_cast<const char*>(shared_.mix[half].elements) + warp_ * 2048;
    if (!context_.access.dx) {
#pragma unroll 1
      for (int at = lane_; at < 16 * S::kWidth; at += device::kWarp) {
        const int r = at / S::kWidth, c = at % S::kWidth;
        if (r >= tokens || c >= unit.width) continue;
        to[r * dx_tensor.stride[1] + c * dx_tensor.stride[3]] =
            *reinterpret_cast<const T*>(from + Shared::Pairs::offset(r, c));
      }
      return;
    }
    const int column = lane_ % 8 * 8;
#pragma unroll
    for (int r = lane_ / 8; r < 16; r += 4) {
      if (r < tokens && column < unit.width) {
        *reinterpret_cast<uint4*>(to + r * dx_tensor.stride[1] + column) =
            *reinterpret_cast<const uint4*>(from + Shared::Pairs::offset(r, column));
      }
    }
  }

  const ChunkContext<S>& context_;
  Shared& shared_;
  int lane_ = threadIdx.x % device::kWarp;
  const int warp_ = __shfl_sync(0xffffffffu, threadIdx.x / device::kWarp % 4, 0);
};

}  // namespace hax::ssd
