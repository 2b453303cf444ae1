// Gradients of a chunk's outputs through the state h before it, unit after unit: dC = dscores B + decay(t, start) g h,
// and what dt and A receive through h. One
// barrier a unit: sums over the warps are finished beside the next unit's products.
#pragma once

#include "scan/ssd/ssd_kernel_backward_shared.cuh"

namespace hax::ssd {

template <class S>
class OutputTile {
  using T = typename S::T;
  using Shared = OutputShared<S>;
  using Grid = typename Shared::Grid;
  static constexpr int Q = S::kTokens, kThreads = Grid::kWarps * device::kWarp;

 public:
  __device__ OutputTile(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                        const BackwardAccess& access, const GradientBlock<S>& block)
      : shared_(shared), p_(p), plan_(plan), access_(access), block_(block) {}

  __device__ void run() {
    fetch_group(shared_.C, p_.C, access_.C);
    if (finishes()) {
      fetch_steps_of(0);
      if (count_ > 1) fetch_steps_of(1);
    }
    fetch_unit(0);
    device::commit_copies();
    states_.clear();
    for (int t = threadIdx.x; t < Q; t += kThreads) shared_.from_h_before[t] = 0.0f;
    device::wait_for_copies<0>();
    __syncthreads();
    weigh(0);
    for (int i = 0; i < count_; ++i) {
      device::wait_for_copies<0>();
      __syncthreads();
      if (i + 1 < count_) {
        fetch_unit(i + 1);
        expect_reads(state(1, i + 1));
      }
      if (finishes()) {
        if (i > 0) finish(i - 1);
        __syncwarp();
        if (i + 2 < count_) fetch_steps_of(i + 2);
      }
      device::commit_copies();
      if (i + 1 < count_) weigh(i + 1);
      handle(i);
    }
    __syncthreads();
    if (finishes()) finish(count_ - 1);
    fetch_group(shared_.last.B, p_.B, access_.B);
    fetch_compact<Q, Q, S::kTokenRow>(
        team_, shared_.last.dscores,
        static_cast<const T*>(plan_.dscores) + block_.dscores_offset(plan_, p_.groups));
    device::commit_copies();
    device::wait_for_copies<0>();
    __syncthreads();
    states_.add_product(device::factor(shared_.last.dscores, S::kTokenRow), row_,
                        device::factor(shared_.last.B, S::kStateRow), column_, 0, Q);
    if (warp_ < Grid::kWarps) {
      store_group_gradient<S>(states_, p_, plan_, access_, block_.chunk, block_.group, block_.share,
                              1, row_, column_);
    }
  }

 private:
  __device__ Unit unit(int i) const { return Unit(p_, plan_.slices, S::kWidth, block_.first + i); }
  __device__ const T* state(int side, int i) const {
    const int64_t units = plan_.units(p_.heads);
    return static_cast<const T*>(plan_.states) +
           ((side * plan_.chunks.count + block_.chunk.place) * units + block_.first + i) *
               S::kStateSize;
  }

  __device__ bool finishes() const { return warp_ == Grid::kWarps - 1; }

  __device__ void fetch_group(T* to, const Tensor& from, bool vectors) {
    fetch_group_rows<S>(team_, to, from, vectors, block_.chunk, block_.group,
                        static_cast<int>(p_.states));
  }
  __device__ void fetch_unit(int i) {
    auto& stage = shared_.units.stages[i % 2];
    fetch_unit_tokens<S>(team_, stage.g, plan_.g, access_.g, block_.chunk.sequence.row,
                         block_.chunk.token(), block_.chunk.tokens, unit(i));
    fetch_compact<S::kWidth, S::kStates, S::kStateRow>(team_, stage.h, state(0, i));
  }
  // dh of a unit, which is read straight into registers, to the L2 cache.
  __device__ void expect_reads(const T* dh) const {
    constexpr int kLine = 128 / sizeof(T);
    for (int i = threadIdx.x * kLine; i < S::kStateSize; i += kThreads * kLine) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(dh + i));
    }
  }
  __device__ void fetch_steps_of(int i) {
    fetch_steps<S>(Team<device::kWarp>{lane_}, shared_.steps[i % 3], plan_,
                   block_.chunk.place * p_.heads + unit(i).head);
  }

  __device__ void weigh(int i) {
    auto& to = shared_.weights[i % 2];
    const float* const steps = shared_.steps[i % 3].values;
    for (int t = threadIdx.x; t < Q; t += kThreads) {
      to.from_start[t] = device::make_weight<T>(device::exp2_approx(exponent<S>(steps, t, -1)));
    }
    if (threadIdx.x == 0) to.over_chunk = device::exp2_approx(exponent<S>(steps, Q - 1, -1));
  }

  // V elements of h times as many of dh.
  static constexpr int V = device::kVectorElements<T>;
  static __device__ float dot(const device::Packed<T, V>& a, const device::Packed<T, V>& b) {
    float x[V], y[V], sum = 0.0f;
    device::unpack(x, a);
    device::unpack(y, b);
#pragma unroll
    for (int v = 0; v < V; ++v) sum += x[v] * y[v];
    return sum;
  }

  __device__ void handle(int i) {
    constexpr int kVectors = S::kStateSize / V, kRounds = (kVectors + kThreads - 1) / kThreads;
    constexpr int kEarly = (kRounds + 1) / 2;
    const auto& stage = shared_.units.stages[i % 2];
    const auto& weights = shared_.weights[i % 2];
    auto& sums = shared_.sums[i % 2];
    const T* const dh = state(1, i);
    device::Packed<T, V> fetched[kEarly];
    const auto load = [&](int first) {
#pragma unroll
      for (int k = 0; k < kEarly; ++k) {
        const int v = (first + k) * kThreads + static_cast<int>(threadIdx.x);
        if (first + k < kRounds && v < kVectors) fetched[k] = device::load_packed<T, V>(dh + v * V);
      }
    };
    float through = 0.0f;
    const auto use = [&](int first) {
#pragma unroll
      for (int k = 0; k < kEarly; ++k) {
        const int v = (first + k) * kThreads + static_cast<int>(threadIdx.x);
        if (first + k >= kRounds || v >= kVectors) continue;
        const int p = v * V / S::kStates, n = v * V % S::kStates;
        through +=
            dot(*reinterpret_cast<const device::Packed<T, V>*>(stage.h + p * S::kStateRow + n),
                fetched[k]);
      }
    };
    load(0);
    const device::Weight<T>* const scale = weights.from_start + row_ + lane_ / 4;
    states_.add_product(device::factor(stage.g, S::kWidthRow), row_,
                        device::factor(stage.h, S::kStateRow), column_, 0, S::kWidth,
                        [&](device::LeftFragment<T>& a, int block, int) {
                          device::scale_rows<T>(a, scale[16 * block], scale[16 * block + 8]);
                        });
    use(0);
    load(kEarly);
    // What a unit adds to C . dC is what it adds to y . g through h.
    using Tile = typename Grid::Tile;
    float dots[Tile::kRowBlocks][2] = {};
    const T* const C = shared_.C + row_ * S::kStateRow + column_;
    states_.for_each_pair([&](float a, float b, int t, int n) {
      float pair[2];
      load_pair(pair, C + t * S::kStateRow + n);
      dots[t / 16][t % 16 / 8] += a * pair[0] + b * pair[1];
    });
#pragma unroll
    for (int block = 0; block < Tile::kRowBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = device::warp_sum<4>(dots[block][half]);
        if (lane_ % 4 == 0) {
          sums.from_h[column_ / Grid::kColumns][row_ + 16 * block + 8 * half + lane_ / 4] = sum;
        }
      }
    }
    use(kEarly);
    through = device::warp_sum(through);
    if (lane_ == 0) sums.through[warp_] = through * weights.over_chunk;
  }

  // What the unit gives to dt and A.
  __device__ void finish(int i) {
    constexpr int K = LaneTokens<S>::kCount;
    const auto& sums = shared_.sums[i % 2];
    float through = lane_ < Grid::kWarps ? sums.through[lane_] : 0.0f;
    through = device::warp_sum(through);
    float dexponent[K], direct[K] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int t = lane_ * K + k;
      float from_h = 0.0f;
#pragma unroll
      for (int j = 0; j < Grid::kAcross; ++j) from_h += sums.from_h[j][t];
      dexponent[k] = from_h - shared_.from_h_before[t];
      shared_.from_h_before[t] = from_h;
    }
    sum_later(dexponent, lane_);
#pragma unroll
    for (int k = 0; k < K; ++k) dexponent[k] += through;
    store_step_gradients<S>(p_, plan_, 1, block_.chunk.place, unit(i), dexponent, direct,
                            shared_.steps[i % 3], lane_);
  }

  Shared& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const GradientBlock<S>& block_;
  const int count_ = static_cast<int>(block_.last - block_.first);
  const int lane_ = threadIdx.x % device::kWarp;
  const int warp_ = threadIdx.x / device::kWarp;
  const Team<kThreads> team_{static_cast<int>(threadIdx.x)};
  const int row_ = Grid::row(warp_), column_ = Grid::column(warp_);
  typename Grid::Tile states_;  // dC
};

template <class S>
inline constexpr int kOutputThreads = OutputGrid<S>::States::kWarps* device::kWarp;

template <class S>
__global__ void __launch_bounds__(kOutputThreads<S>, 2)
    backward_outputs_kernel(const __grid_constant__ BackwardParams p,
                            const __grid_constant__ CudaBackwardPlan plan,
                            const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  const GradientBlock<S> block(p, plan);
  if (block.chunk.tokens == 0) {
    const int64_t units = plan.units(p.heads);
    return block.clear(plan.dA + plan.chunks.count * units, units, 1);
  }
  OutputTile<S> tile(*reinterpret_cast<OutputShared<S>*>(memory), p, plan, access, block);
  tile.run();
}

}  // namespace hax::ssd
