// The thread block that makes gradients of a chunk's inputs. Its larger parts are defined in ssd_kernel_backward_inputs.cuh,
// _inputs_pairs.cuh and _inputs_finish.cuh.
#pragma once

#include "scan/ssd/ssd_kernel_backward_shared.cuh"

namespace hax::ssd {

template <class S>
class InputTile {
  using T = typename S::T;
  using G = InputGrid<S>;
  using Shared = InputShared<S>;
  using Stage = typename Shared::Stage;
  using Block = device::WarpTile<16, 16>;
  static constexpr int Q = S::kTokens;

 public:
  __device__ InputTile(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                       const BackwardAccess& access, const GradientBlock<S>& block)
      : shared_(shared), p_(p), plan_(plan), access_(access), block_(block) {}

  __device__ void run();

 private:
  using WidthTile = typename G::Width::Tile;

  __device__ Unit unit(int i) const { return Unit(p_, plan_.slices, S::kWidth, block_.first + i); }
  __device__ int64_t row() const { return block_.chunk.sequence.row; }

  __device__ bool finishes() const { return warp_ == G::kFinisher; }

  __device__ void fetch_C() {
    fetch_group_rows<S>(team_, shared_.ends.C, p_.C, access_.C, block_.chunk, block_.group,
                        static_cast<int>(p_.states));
  }
  __device__ void fetch_unit(int i) {
    Stage& stage = shared_.units.stages[i % 2];
    const ChunkAt& chunk = block_.chunk;
    fetch_unit_tokens<S>(team_, stage.x, p_.x, access_.x, row(), chunk.token(), chunk.tokens,
                         unit(i));
    fetch_unit_tokens<S>(team_, stage.g, plan_.g, access_.g, row(), chunk.token(), chunk.tokens,
                         unit(i));
    const int64_t units = plan_.units(p_.heads);
    fetch_compact<S::kWidth, S::kStates, S::kStateRow>(
        team_, stage.dh,
        static_cast<const T*>(plan_.states) +
            ((plan_.chunks.count + chunk.place) * units + block_.first + i) * S::kStateSize);
  }
  __device__ void fetch_steps_of(int i) {
    fetch_steps<S>(Team<device::kWarp>{lane_}, shared_.steps[i % 3], plan_,
                   block_.chunk.place * p_.heads + unit(i).head);
  }

  // By the last threads, which have the shortest products of mix.
  __device__ void weigh(int i) {
    const int t = static_cast<int>(threadIdx.x) - (G::kWarps * device::kWarp - Q);
    if (t < 0) return;
    auto& to = shared_.weights[i % 2];
    const float* const steps = shared_.steps[i % 3].values;
    const Unit at = unit(i);
    if (p_.D && t < at.width) {
      to.D[t] = p_.D.ndim == 2 ? *p_.D.at<float>(at.head, at.first + t) : shared_.steps[i % 3].D();
    }
    const float to_end = device::exp2_approx(exponent<S>(steps, Q - 1, t));
    to.to_end_fp32[t] = to_end;
    to.to_end[t] = device::make_weight<T>(to_end * steps[t]);
  }

  // Two barriers.
  __device__ void handle(int i);

  __device__ void store_dx(int i);

  __device__ void place_blocks() {
#pragma unroll
    for (int b = 0; b < G::kBlocksPerWarp; ++b) {
      const int index = warp_ + b * G::kWarps;
      int band = 0;
      while ((band + 1) * (band + 2) / 2 <= index) ++band;
      mix_row_[b] = 16 * band;
      mix_column_[b] = 16 * (index - band * (band + 1) / 2);
    }
  }
  // Lets the compiler keep no addresses that follow from the blocks' places from unit to unit: it would run out of
  // registers.
  __device__ void forget_derived() {
#pragma unroll
    for (int b = 0; b < G::kBlocksPerWarp; ++b) {
      asm volatile("" : "+r"(mix_row_[b]), "+r"(mix_column_[b]));
    }
  }
  // Calls f(b) for the warp's blocks.
  template <class F>
  __device__ void for_blocks(F&& f) {
#pragma unroll
    for (int b = 0; b < G::kBlocksPerWarp; ++b) {
      if (warp_ + b * G::kWarps < G::kBlocks) f(b);
    }
  }

  __device__ void make_scores();

  // kDiagonal: some of the block's pairs are not causal.
  template <bool kDiagonal>
  __device__ void gradients_of_block(const Stage& stage, int i, int b);

  __device__ void gradient_of_B(const Stage& stage, int i) {
    if (warp_ >= G::States::kWarps) return;
    const device::Weight<T>* const scale = shared_.weights[i % 2].to_end + row_ + lane_ / 4;
    states_.add_product(device::factor(stage.x, S::kWidthRow), row_,
                        device::factor(stage.dh, S::kStateRow), column_, 0, S::kWidth,
                        [&](device::LeftFragment<T>& a, int block, int) {
                          device::scale_rows<T>(a, scale[16 * block], scale[16 * block + 8]);
                        });
  }

  // What dx receives through dh and D.
  __device__ void dx_through_state(WidthTile& dx, const Stage& stage, int i) {
    if (warp_ >= G::Width::kWarps) return;
    const int row = width_row_, column = width_column_;
    const auto& weights = shared_.weights[i % 2];
    auto& sums = shared_.sums[i % 2];
    dx.clear();
    dx.add_product(device::factor(shared_.B, S::kStateRow), row,
                   device::transposed(stage.dh, S::kStateRow), column, 0, S::kStates);
    const int at = row * S::kWidthRow + column;
    const float* const dt = shared_.steps[i % 3].values + row;
    const float* const to_end = weights.to_end_fp32 + row;
    float dots[2] = {};
    dx.for_each_pair([&](float& a, float& b, int s, int p) {
      float x[2];
      load_pair(x, stage.x + at + s * S::kWidthRow + p);
      a *= to_end[s];
      b *= to_end[s];
      dots[s / 8] += a * x[0] + b * x[1];
      a *= dt[s];
      b *= dt[s];
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float dot = device::warp_sum<4>(dots[half]);
      if (lane_ % 4 == 0) {
        sums.from_dh[column / G::Width::kColumns][row + lane_ / 4 + 8 * half] = dot;
      }
    }
    if (!p_.D) return;
    const float* const D = weights.D + column;
    float columns[2 * WidthTile::kColumnBlocks] = {};
    dx.for_each_pair([&](float& a, float& b, int s, int p) {
      float x[2], g[2];
      load_pair(x, stage.x + at + s * S::kWidthRow + p);
      load_pair(g, stage.g + at + s * S::kWidthRow + p);
      a += D[p] * g[0];
      b += D[p + 1] * g[1];
      columns[p / 8 * 2] += x[0] * g[0];
      columns[p / 8 * 2 + 1] += x[1] * g[1];
    });
    if (!p_.dD) return;
    static_assert(2 * WidthTile::kColumnBlocks <= 8);
    const int k = sum_over_rows(columns, lane_);
    if (lane_ / 4 < 2 * WidthTile::kColumnBlocks) {
      sums.skip[row / 16][column + k / 2 * 8 + lane_ % 4 * 2 + k % 2] = columns[0];
    }
  }

  // What is left of a unit once all warps are done with it.
  __device__ void finish(int i) {
    if (p_.dx) store_dx(i);
    if (finishes()) finish_sums(i);
  }

  // What the unit gives to dt, A and D.
  __device__ void finish_sums(int i);

  __device__ void store_skip_gradient(int i);

  // dscores in the place of mix; zero above the diagonal.
  __device__ void put_dscores();
  // For dC.
  __device__ void store_dscores();

  Shared& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const GradientBlock<S>& block_;
  const int count_ = static_cast<int>(block_.last - block_.first);
  const int lane_ = threadIdx.x % device::kWarp;
  const int warp_ = threadIdx.x / device::kWarp;
  const Team<G::kWarps * device::kWarp> team_{static_cast<int>(threadIdx.x)};
  const int row_ = G::States::row(warp_), column_ = G::States::column(warp_);
  const int width_row_ = G::Width::row(warp_), width_column_ = G::Width::column(warp_);
  int mix_row_[G::kBlocksPerWarp], mix_column_[G::kBlocksPerWarp];
  Block scores_[G::kBlocksPerWarp], dscores_[G::kBlocksPerWarp];
  typename G::States::Tile states_;  // dB
};

}  // namespace hax::ssd
