// Gradients of a chunk's inputs, unit after unit. With dh the gradient of the state behind the chunk, g the gradient of
// y before the gate and decay(t, s) that from token s to token t:
//   mix[t, s] = (C_t . B_s) decay(t, s) dt_s,  dscores = g x^T decay dt, summed over units
//   dx = mix^T g + dt decay(end, s) B dh^T,  dB = dscores^T C + dt decay(end, s) x dh
// and what dt and A receive through mix and dh. Two barriers a unit: mix and what comes through dh before the second, mix^T
// g behind it. Whatever hangs on all warps' results is done beside the next unit's products, by warps that have fewer.
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

  __device__ void run() {
    const int states = static_cast<int>(p_.states);
    if (fetches()) {
      fetch_group_rows<S>(fetchers_, shared_.B, p_.B, access_.B, block_.chunk, block_.group,
                          states);
      fetch_C();
    }
    if (finishes()) {
      fetch_steps_of(0);
      if (count_ > 1) fetch_steps_of(1);
    }
    device::commit_copies();
    states_.clear();
    place_blocks();
    device::wait_for_copies<0>();
    __syncthreads();
    make_scores();
    weigh(0);
    __syncthreads();
    if (fetches()) fetch_unit(0);
    device::commit_copies();
    for (int i = 0; i < count_; ++i) {
      device::wait_for_copies<0>();
      __syncthreads();
      if (fetches() && i + 1 < count_) fetch_unit(i + 1);
      if (i > 0) finish(i - 1);
      __syncwarp();
      if (finishes() && i + 2 < count_) fetch_steps_of(i + 2);
      device::commit_copies();
      handle(i);
    }
    __syncthreads();
    if (fetches()) fetch_C();
    device::commit_copies();
    finish(count_ - 1);
    put_dscores();
    device::wait_for_copies<0>();
    __syncthreads();
    if (warp_ < G::States::kWarps) {
      states_.add_product(device::transposed(shared_.mix, S::kTokenRow), row_,
                          device::factor(shared_.ends.C, S::kStateRow), column_, row_, Q);
    }
    if (warp_ < G::States::kWarps) {
      store_group_gradient<S>(states_, p_, plan_, access_, block_.chunk, block_.group,
                              block_.share, 0, row_, column_);
    }
    store_dscores();
  }

 private:
  using WidthTile = typename G::Width::Tile;

  __device__ Unit unit(int i) const { return Unit(p_, plan_.slices, S::kWidth, block_.first + i); }
  __device__ int64_t row() const { return block_.chunk.sequence.row; }

  __device__ bool fetches() const {
    return fetchers_.thread >= 0 && fetchers_.thread < G::kFetchers * device::kWarp;
  }
  __device__ bool finishes() const { return warp_ == G::kFinisher; }

  __device__ void fetch_C() {
    fetch_group_rows<S>(fetchers_, shared_.ends.C, p_.C, access_.C, block_.chunk, block_.group,
                        static_cast<int>(p_.states));
  }
  __device__ void fetch_unit(int i) {
    Stage& stage = shared_.units.stages[i % 2];
    const ChunkAt& chunk = block_.chunk;
    fetch_unit_tokens<S>(fetchers_, stage.x, p_.x, access_.x, row(), chunk.token(), chunk.tokens,
                         unit(i));
    fetch_unit_tokens<S>(fetchers_, stage.g, plan_.g, access_.g, row(), chunk.token(), chunk.tokens,
                         unit(i));
    const int64_t units = plan_.units(p_.heads);
    fetch_compact<S::kWidth, S::kStates, S::kStateRow>(
        fetchers_, stage.dh,
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
  __device__ void handle(int i) {
    const Stage& stage = shared_.units.stages[i % 2];
    forget_derived();
    for_blocks([&](int b) {
      if (mix_row_[b] == mix_column_[b]) {
        gradients_of_block<true>(stage, i, b);
      } else {
        gradients_of_block<false>(stage, i, b);
      }
    });
    gradient_of_B(stage, i);
    WidthTile dx;
    dx_through_state(dx, stage, i);
    __syncthreads();
    if (warp_ < G::Width::kWarps && p_.dx) {
      dx.add_product(device::transposed(shared_.mix, S::kTokenRow), width_row_,
                     device::factor(stage.g, S::kWidthRow), width_column_, width_row_, Q);
      T* const to = shared_.dx + width_row_ * S::kWidthRow + width_column_;
      dx.for_each_pair([&](float a, float b, int t, int p) {
        const float pair[] = {a, b};
        device::store_packed<T, 2>(to + t * S::kWidthRow + p, pair);
      });
    }
    if (i + 1 < count_) weigh(i + 1);
  }

  __device__ void store_dx(int i) {
    const Unit at = unit(i);
    const Team<G::kStorers * device::kWarp> team{static_cast<int>(threadIdx.x) -
                                                 G::kFirstStorer * device::kWarp};
    if (team.thread < 0 || team.thread >= G::kStorers * device::kWarp) return;
    store_rows<Q, S::kWidth, S::kWidthRow>(
        team,
        OutputRows<T>{p_.dx.at<T>(row(), block_.chunk.token(), at.head, at.first), p_.dx.stride[1],
                      p_.dx.stride[3], block_.chunk.tokens, at.width, access_.dx},
        shared_.dx);
  }

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

  __device__ void make_scores() {
#pragma unroll
    for (int b = 0; b < G::kBlocksPerWarp; ++b) dscores_[b].clear();
    for_blocks([&](int b) {
      Block scores;
      scores.clear();
      scores.add_product(device::factor(shared_.ends.C, S::kStateRow), mix_row_[b],
                         device::transposed(shared_.B, S::kStateRow), mix_column_[b], 0,
                         S::kStates);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          scores_[b][j][half] = {device::from_float<T>(scores.values[0][j][2 * half]),
                                 device::from_float<T>(scores.values[0][j][2 * half + 1])};
        }
      }
    });
  }

  // kDiagonal: some of the block's pairs are not causal.
  template <bool kDiagonal>
  __device__ void gradients_of_block(const Stage& stage, int i, int b) {
    auto& sums = shared_.sums[i % 2];
    const int row = mix_row_[b], column = mix_column_[b];
    Block dmix;
    dmix.clear();
    dmix.add_product(device::factor(stage.g, S::kWidthRow), row,
                     device::transposed(stage.x, S::kWidthRow), column, 0, S::kWidth);
    const int r = lane_ / 4, c = lane_ % 4 * 2;
    const float* const dts = shared_.steps[i % 3].values;
    const float* const high = dts + Q;
    const float* const low = high + Q;  // only where kExact
    float rows[2] = {}, columns[4] = {};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int s = column + 8 * j + c;
      const float2 from = *reinterpret_cast<const float2*>(high + s);
      const float2 step = *reinterpret_cast<const float2*>(dts + s);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = row + r + 8 * half;
        float scores[2], mixed[2];
        device::unpack(scores, scores_[b][j][half]);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float dt = e ? step.y : step.x;
          float difference = high[t] - (e ? from.y : from.x);
          if constexpr (S::kExact) difference += low[t] - low[s + e];
          const bool causal = !kDiagonal || s + e <= t, strictly = !kDiagonal || s + e < t;
          const float decay = causal ? device::exp2_approx(difference) : 0.0f;
          const float faded = causal ? scores[e] * decay : 0.0f;
          const float dm = dmix.values[0][j][2 * half + e];
          const float share = dm * faded;
          mixed[e] = faded * dt;
          dscores_[b].values[0][j][2 * half + e] += dm * (decay * dt);
          rows[half] += strictly ? share * dt : 0.0f;
          columns[2 * j + e] += strictly ? share : 0.0f;
          if (kDiagonal && s + e == t) sums.own[t] = share;
          if constexpr (S::kExact) sums.pairs[t * (Q + 1) + s + e] = strictly ? share * dt : 0.0f;
        }
        device::store_packed<T, 2>(shared_.mix + t * S::kTokenRow + s, mixed);
      }
    }
    const int k = sum_over_rows(columns, lane_);
    if (r < 4) sums.column[row / 16][column + k / 2 * 8 + c + k % 2] = columns[0];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = device::warp_sum<4>(rows[half]);
      if (c == 0) sums.row[column / 16][row + r + 8 * half] = total;
    }
  }

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
  __device__ void finish_sums(int i) {
    constexpr int K = LaneTokens<S>::kCount;
    auto& sums = shared_.sums[i % 2];
    const float* const dt = shared_.steps[i % 3].values;
    float later[K] = {}, earlier[K], direct[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int t = lane_ * K + k;
      float row = 0.0f, column = 0.0f, from_dh = 0.0f;
#pragma unroll
      for (int j = 0; j < G::kBands; ++j) {
        if (16 * j <= t) row += sums.row[j][t];
        if (16 * j + 15 >= t) column += sums.column[j][t];
      }
#pragma unroll
      for (int j = 0; j < G::Width::kAcross; ++j) from_dh += sums.from_dh[j][t];
      direct[k] = column + sums.own[t] + from_dh;
      earlier[k] = dt[t] * from_dh;
      if constexpr (!S::kExact) later[k] = row - dt[t] * column;
    }
    sum_earlier(earlier, lane_);
    if constexpr (S::kExact) {
      // No difference of sums: pairs[t][s] becomes its sum over later t.
      static_assert(K == 1);
      float carried = 0.0f;
      for (int t = Q - 1; t > lane_; --t) {
        carried += sums.pairs[t * (Q + 1) + lane_];
        sums.pairs[t * (Q + 1) + lane_] = carried;
      }
      __syncwarp();
      for (int s = 0; s < lane_; ++s) later[0] += sums.pairs[lane_ * (Q + 1) + s];
    } else {
      sum_later(later, lane_);
    }
#pragma unroll
    for (int k = 0; k < K; ++k) later[k] += earlier[k];
    store_step_gradients<S>(p_, plan_, 0, block_.chunk.place, unit(i), later, direct,
                            shared_.steps[i % 3], lane_);
    if (p_.dD) store_skip_gradient(i);
  }

  __device__ void store_skip_gradient(int i) {
    const auto& sums = shared_.sums[i % 2];
    const int64_t index = block_.chunk.place * plan_.units(p_.heads) + block_.first + i;
    float* const to = plan_.dD + index * plan_.skip_columns;
    float total = 0.0f;
    for (int p = lane_; p < S::kWidth; p += device::kWarp) {
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < G::Width::kDown; ++j) sum += sums.skip[j][p];
      if (plan_.skip_columns > 1) to[p] = sum;
      total += sum;
    }
    total = device::warp_sum(total);
    if (plan_.skip_columns == 1 && lane_ == 0) *to = total;
  }

  // dscores in the place of mix; zero above the diagonal.
  __device__ void put_dscores() {
    for_blocks([&](int b) {
      const auto put = [&](Block& block, int row, int column) {
        block.for_each_pair([&](float x, float y, int t, int s) {
          const float pair[] = {x, y};
          device::store_packed<T, 2>(shared_.mix + (row + t) * S::kTokenRow + column + s, pair);
        });
      };
      put(dscores_[b], mix_row_[b], mix_column_[b]);
      if (mix_row_[b] == mix_column_[b]) return;
      Block zero;
      zero.clear();
      put(zero, mix_column_[b], mix_row_[b]);
    });
  }
  // For dC.
  __device__ void store_dscores() {
    constexpr int kThreads = G::kWarps * device::kWarp;
    T* const to = static_cast<T*>(plan_.dscores) + block_.dscores_offset(plan_, p_.groups);
    store_rows<Q, Q, S::kTokenRow>(Team<kThreads>{static_cast<int>(threadIdx.x)},
                                   OutputRows<T>{to, Q, 1, Q, Q, true}, shared_.mix);
  }

  Shared& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const GradientBlock<S>& block_;
  const int count_ = static_cast<int>(block_.last - block_.first);
  const int lane_ = threadIdx.x % device::kWarp;
  const int warp_ = threadIdx.x / device::kWarp;
  const Team<G::kFetchers * device::kWarp> fetchers_{static_cast<int>(threadIdx.x) -
                                                     G::kFirstFetcher * device::kWarp};
  const int row_ = G::States::row(warp_), column_ = G::States::column(warp_);
  const int width_row_ = G::Width::row(warp_), width_column_ = G::Width::column(warp_);
  int mix_row_[G::kBlocksPerWarp], mix_column_[G::kBlocksPerWarp];
  device::Packed<T, 2> scores_[G::kBlocksPerWarp][2][2];
  Block dscores_[G::kBlocksPerWarp];
  typename G::States::Tile states_;  // dB
};

template <class S>
inline constexpr int kInputThreads = S::kInputWarps* device::kWarp;

template <class S>
__global__ void __launch_bounds__(kInputThreads<S>)
    backward_inputs_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ CudaBackwardPlan plan,
                           const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  const GradientBlock<S> block(p, plan);
  if (block.chunk.tokens == 0) {
    block.clear(plan.dA, plan.units(p.heads), 1);
    if (p.dD) block.clear(plan.dD, plan.units(p.heads), plan.skip_columns);
    return;
  }
  InputTile<S> tile(*reinterpret_cast<InputShared<S>*>(memory), p, plan, access, block);
  tile.run();
}

}  // namespace hax::ssd
