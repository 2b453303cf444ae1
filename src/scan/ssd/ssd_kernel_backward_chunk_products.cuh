// Products of a unit by warpgroups. The first two make dB and dx, 64 earlier tokens each; the others dC and what goes through
// h, 64 later tokens each.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_memory.cuh"

namespace hax::ssd {

template <class S>
class ChunkProducts {
  using T = typename S::T;
  using Shared = ChunkShared<S>;
  static constexpr int Q = S::kTokens, kHalfBytes = Q / 2 * 128, kSteps = 2;
  static_assert(Q == 128 && S::kWidth == 64 && S::kStates == 128);
  using Operands = uint32_t[kSteps][4];

 public:
  __device__ ChunkProducts(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                           const BackwardAccess& access, const ChunkAt& chunk)
      : shared_(shared), p_(p), plan_(plan), access_(access), chunk_(chunk) {
    sums_.clear();
  }

  __device__ void run(int stage, const float* dt, const Unit& unit) {
    const typename Shared::States& states = of_C_ ? shared_.h : shared_.dh;
    const typename Shared::Rows& others = of_C_ ? shared_.B : shared_.C;
    const typename Shared::Rows& own = of_C_ ? shared_.C : shared_.B;
    const typename Shared::Tokens& tokens = of_C_ ? shared_.g[stage] : shared_.x[stage];
    add_weighted(tokens, states);
    for (int other = of_C_ ? 0 : half_; other <= (of_C_ ? half_ : 1); ++other) {
      add_pairs(other, others);
    }
    float through[8][4];
    through_states(through, own, states);
    if (of_C_) {
      finish_outputs(through, stage);
    } else {
      finish_inputs(through, stage, dt, unit);
    }
  }

  // dB and dC.
  __device__ void store(int64_t group, int64_t share) {
    store_group_gradient<S>(sums_, p_, plan_, access_, chunk_, group, share, of_C_, row_, 0);
  }

 private:
  // d += a b, 64 columns of a by 64 rows of b: load(a, k) brings columns 16 k .. 16 k + 15 of a, b starts at `operand` and
  // its 16 rows or columns are kStepBytes apart.
  template <bool kTransposed, int kStepBytes, int M, class Load>
  __device__ static void multiply(float (&d)[M][4], uint64_t operand, Load&& load) {
#pragma unroll
    for (int first = 0; first < 4; first += kSteps) {
      Operands a;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) load(a[k], first + k);
      device::begin_products();
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        device::warpgroup_mma<T, kTransposed>(
            d, a[k], device::operand_at(operand, (first + k) * kStepBytes));
      }
      device::end_products();
      device::wait_for_products<0>();
    }
  }
  // 16 rows of this warp and 16 columns from a panel; the address is that of the first row.
  __device__ void load(uint32_t (&a)[4], uint32_t rows, int k) const {
    device::load_matrix_x4(a, rows + (offset_ ^ k * 32));
  }

  // (weight tokens) states
  __device__ void add_weighted(const typename Shared::Tokens& tokens,
                               const typename Shared::States& states) {
    const uint32_t rows = tokens.address() + row_ * 128;
    const auto* const weights =
        (of_C_ ? shared_.from_start_T : shared_.to_end_dt) + row_ + lane_ / 4;
    const uint32_t upper = weights[0], lower = weights[8];
    multiply<true, 2048>(
        sums_.values[0],
        device::swizzled_operand(states.address(), Shared::States::kPanelBytes, 1024),
        [&](uint32_t(&a)[4], int k) {
          load(a, rows, k);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            a[i] = device::multiply_pairs<T>(a[i], i % 2 ? lower : upper);
          }
        });
  }

  // dscores with the other tokens' half
  __device__ void add_pairs(int other, const typename Shared::Rows& rows) {
    const uint32_t quarter = shared_.dscores[half_ + other].address();
    const uint64_t b = device::swizzled_operand(rows.address() + other * kHalfBytes,
                                                Shared::Rows::kPanelBytes, 1024);
    if (of_C_) {
      const uint32_t place = quarter + (lane_offset(lane_, true) ^ row_ / 16 % 4 * 32);
      multiply<true, 2048>(sums_.values[0], b, [&](uint32_t(&a)[4], int k) {
        device::load_matrix_x4_transposed(a, place + k * 2048);
      });
    } else {
      const uint32_t place = quarter + row_ % (Q / 2) * 128;
      multiply<true, 2048>(sums_.values[0], b, [&](uint32_t(&a)[4], int k) { load(a, place, k); });
    }
  }

  // B dh^T or C h^T
  __device__ void through_states(float (&d)[8][4], const typename Shared::Rows& rows,
                                 const typename Shared::States& states) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) d[i][e] = 0.0f;
    }
#pragma unroll
    for (int panel = 0; panel < 2; ++panel) {
      const uint32_t place = rows.address() + panel * Shared::Rows::kPanelBytes + row_ * 128;
      multiply<false, 32>(d,
                          device::swizzled_operand(
                              states.address() + panel * Shared::States::kPanelBytes, 16, 1024),
                          [&](uint32_t(&a)[4], int k) { load(a, place, k); });
    }
  }

  // f(two neighbours of d, half, the matching pair of a tile)
  template <class F>
  __device__ void each_pair(float (&d)[8][4], const typename Shared::Tokens& tile, F&& f) {
    const char* const rows = reinterpret_cast<const char*>(tile.elements) + row_ * 128;
    int place = lane_ / 4 * 144 + lane_ % 4 * 4;
    asm volatile("" : "+r"(place));  // keeps the 16 addresses from taking registers
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        f(d[i][2 * half], d[i][2 * half + 1], half, 8 * i + lane_ % 4 * 2,
          device::unpack_pair<T>(
              *reinterpret_cast<const uint32_t*>(rows + (place ^ i * 16) + half * 1024)));
      }
    }
  }
  // Leaves the sums of two rows' lanes, times their weights.
  __device__ void put_sums(float (&dots)[2], float (&to)[Q], const float (&weights)[Q]) {
    const float sum = device::warp_sums<4>(dots, lane_);
    const int t = row_ + lane_ / 4 + lane_ % 2 * 8;
    if (lane_ % 4 < 2) to[t] = sum * weights[t];
  }

  __device__ void finish_outputs(float (&d)[8][4], int stage) {
    float dots[2] = {};
    each_pair(d, shared_.g[stage], [&](float& a, float& b, int half, int, float2 g) {
      dots[half] += a * g.x;
      dots[half] += b * g.y;
    });
    put_sums(dots, shared_.from_h, shared_.from_start);
    // h . dh, whose elements lie alike
    constexpr int kVectors = S::kStateSize / 8, kThreads = kChunkThreads / 2;
    const auto* const h = reinterpret_cast<const uint4*>(shared_.h.elements);
    const auto* const dh = reinterpret_cast<const uint4*>(shared_.dh.elements);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; i += kThreads) {
      const int at = i + static_cast<int>(threadIdx.x) % kThreads;
      const uint4 u = h[at], v = dh[at];
      const uint32_t a[] = {u.x, u.y, u.z, u.w}, b[] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 x = device::unpack_pair<T>(a[k]), y = device::unpack_pair<T>(b[k]);
        sum += x.x * y.x;
        sum += x.y * y.y;
      }
    }
    sum = device::warp_sum(sum);
    if (lane_ == 0) shared_.through[warp_ % (kChunkWarps / 2)] = sum;
  }

  __device__ void finish_inputs(float (&dx)[8][4], int stage, const float* dts, const Unit& unit) {
    typename Shared::Tokens& x = shared_.x[stage];
    const int t = row_ + lane_ / 4;
    const float to_end[2] = {shared_.to_end[t], shared_.to_end[t + 8]};
    float dots[2] = {};
    each_pair(dx, x, [&](float& a, float& b, int half, int, float2 pair) {
      dots[half] += a * pair.x;
      dots[half] += b * pair.y;
      a *= to_end[half];
      b *= to_end[half];
    });
    put_sums(dots, shared_.from_dh, shared_.to_end);
    if (!p_.dx) return;
    for (int other = half_; other < 2; ++other) {
      const uint32_t place = shared_.mix[half_ + other].address() + row_ % (Q / 2) * 128;
      multiply<true, 2048>(
          dx, device::swizzled_operand(shared_.g[stage].address() + other * kHalfBytes, 16, 1024),
          [&](uint32_t(&a)[4], int k) { load(a, place, k); });
    }
    const float dt[2] = {dts[t], dts[t + 8]};
    each_pair(dx, shared_.g[stage], [&](float& a, float& b, int half, int column, float2 g) {
      const float2 D = *reinterpret_cast<const float2*>(shared_.D + column);
      a = a * dt[half] + D.x * g.x;
      b = b * dt[half] + D.y * g.y;
    });
    // Through the place of x, rows of this warp alone.
    __syncwarp();
    const uint32_t rows = x.address() + row_ * 128;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const from = &dx[2 * k + i / 2][i % 2 * 2];
        words[i] = device::pack_pair<T>(from[0], from[1]);
      }
      device::store_matrix_x4(rows + (offset_ ^ k * 32), words);
    }
    __syncwarp();
    store_dx(x, unit);
  }

  __device__ void store_dx(const typename Shared::Tokens& tile, const Unit& unit) {
    const char* const from = reinterpret_cast<const char*>(tile.elements);
    const int tokens = chunk_.tokens - row_;  // from the warp's first row on
    T* const to = p_.dx.at<T>(chunk_.sequence.row, chunk_.token() + row_, unit.head, unit.first);
    if (!access_.dx) {
#pragma unroll 1
      for (int i = lane_; i < 16 * S::kWidth; i += device::kWarp) {
        const int r = i / S::kWidth, c = i % S::kWidth;
        if (r >= tokens || c >= unit.width) continue;
        to[r * p_.dx.stride[1] + c * p_.dx.stride[3]] =
            *reinterpret_cast<const T*>(from + Shared::Tokens::offset(row_ + r, c));
      }
      return;
    }
    const int column = lane_ % 8 * 8;
#pragma unroll
    for (int r = lane_ / 8; r < 16; r += 4) {
      if (r < tokens && column < unit.width) {
        *reinterpret_cast<uint4*>(to + r * p_.dx.stride[1] + column) =
            *reinterpret_cast<const uint4*>(from + Shared::Tokens::offset(row_ + r, column));
      }
    }
  }

  Shared& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const ChunkAt& chunk_;
  const int lane_ = threadIdx.x % device::kWarp, warp_ = threadIdx.x / device::kWarp;
  const bool of_C_ = warp_ >= kChunkWarps / 2;
  const int half_ = warp_ / 4 % 2;                    // of the chunk
  const int row_ = half_ * (Q / 2) + warp_ % 4 * 16;  // first token of the warp
  const int offset_ = lane_offset(lane_);
  device::WarpTile<16, S::kStates> sums_;  // dB or dC, the warpgroup's 64 tokens by all states
};

}  // namespace hax::ssd
