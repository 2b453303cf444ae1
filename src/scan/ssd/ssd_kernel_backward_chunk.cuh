// Gradients of a chunk of 128 tokens by warpgroups, unit after unit, for heads of up to 64 and up to 128 states. With earlier
// tokens s and later ones t, dh the gradient of the state behind the chunk and g that of y before the gate:
//   mix = (B C^T) decay(t, s),  dx_s = dt_s (mix g + decay(end, s) B dh^T) + D g_s,  dscores = x g^T decay(t, s) dt_s
//   dB += dscores C + (dt decay(end, s) x) dh,  dC += dscores^T B + (decay(t, start) g) h
// dB and dC stay in registers, 64 rows of one of them a warpgroup. Two phases a unit, a barrier each: the pairs (t, s) in
// blocks of 16 x 16, a warp each, which leave mix and dscores in shared memory; then all products with those and the states.
#pragma once

#include "scan/ssd/ssd_kernel_backward_chunk_pairs.cuh"
#include "scan/ssd/ssd_kernel_backward_chunk_products.cuh"

namespace hax::ssd {

template <class S>
class ChunkTile {
  using T = typename S::T;
  using Shared = ChunkShared<S>;
  static constexpr int Q = S::kTokens;

 public:
  __device__ ChunkTile(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                       const BackwardAccess& access, const GradientBlock<S>& block)
      : shared_(shared), p_(p), plan_(plan), access_(access), block_(block) {}

  __device__ void run() {
    ChunkPairs<S> pairs(shared_);
    ChunkProducts<S> products(shared_, p_, plan_, access_, block_.chunk);
    if (fetches()) {
      fetch_group(shared_.B, p_.B, access_.B);
      fetch_group(shared_.C, p_.C, access_.C);
      fetch_tokens(0);
      fetch_steps_of(0);
    }
    device::commit_copies();
    for (int i = threadIdx.x * 4; i < static_cast<int>(sizeof(shared_.mix));
         i += kChunkThreads * 4) {
      device::store_shared(device::shared_address(shared_.mix) + i, 0u);
      device::store_shared(device::shared_address(shared_.dscores) + i, 0u);
    }
    for (int i = 0; i < count_; ++i) {
      device::wait_for_copies<0>();
      meet();
      if (fetches()) fetch_states(i);
      device::commit_copies();
      if (fetches() && i + 1 < count_) {
        fetch_tokens(i + 1);
        fetch_steps_of(i + 1);
      }
      device::commit_copies();
      if (i > 0 && finishes()) finish(i - 1);
      weigh(i);
      pairs.run(i % 2, shared_.steps[i % 3].values);
      device::wait_for_copies<1>();
      meet();
      if (warp_ / 4 == 2) gather(i);
      products.run(i % 2, shared_.steps[i % 3].values, unit(i));
    }
    __syncthreads();
    if (finishes()) finish(count_ - 1);
    products.store(block_.group, block_.share);
  }

 private:
  __device__ static void meet() {
    device::publish_to_products();
    __syncthreads();
  }
  // The first warpgroup has more pairs, the last one weighs and finishes.
  static constexpr int kFetchers = kChunkThreads / 2;
  __device__ bool fetches() const { return team_.thread >= 0 && team_.thread < kFetchers; }
  __device__ bool finishes() const { return warp_ == kChunkWarps - 1; }
  __device__ Unit unit(int i) const { return Unit(p_, plan_.slices, S::kWidth, block_.first + i); }

  __device__ void fetch_group(typename Shared::Rows& to, const Tensor& from, bool vectors) {
    fetch_panels(team_, to,
                 token_rows<T>(from, vectors, block_.chunk.sequence.row, block_.chunk.token(),
                               block_.chunk.tokens, block_.group, 0, static_cast<int>(p_.states)));
  }
  __device__ void fetch_tokens(int i) {
    const Unit at = unit(i);
    const auto fetch_one = [&](typename Shared::Tokens& to, const Tensor& from, bool vectors) {
      const T* const first = from.at<T>(block_.chunk.sequence.row, block_.chunk.token()) +
                             at.head * from.stride[2] + at.first * from.stride[3];
      fetch_panels(
          team_, to,
          Rows<T>{first, from.stride[1], from.stride[3], block_.chunk.tokens, at.width, vectors});
    };
    fetch_one(shared_.x[i % 2], p_.x, access_.x);
    fetch_one(shared_.g[i % 2], plan_.g, access_.g);
  }
  __device__ void fetch_states(int i) {
    const int64_t units = plan_.units(p_.heads);
    const T* const from = static_cast<const T*>(plan_.states) +
                          (block_.chunk.place * units + block_.first + i) * S::kStateSize;
    fetch_compact_panels(team_, shared_.h, from);
    fetch_compact_panels(team_, shared_.dh, from + plan_.chunks.count * units * S::kStateSize);
  }
  __device__ void fetch_steps_of(int i) {
    if (warp_ != 4) return;
    fetch_steps<S>(Team<device::kWarp>{lane_}, shared_.steps[i % 3], plan_,
                   block_.chunk.place * p_.heads + unit(i).head);
  }

  // Weights of tokens in products with the states, by the last warpgroup.
  __device__ void weigh(int i) {
    const int t = static_cast<int>(threadIdx.x) - (kChunkThreads - Q);
    if (t < 0) return;
    const float* const steps = shared_.steps[i % 3].values;
    const float to_end = device::exp2_approx(exponent<S>(steps, Q - 1, t));
    const float from_start = device::exp2_approx(exponent<S>(steps, t, -1));
    shared_.to_end[t] = to_end;
    shared_.from_start[t] = from_start;
    shared_.to_end_dt[t] = device::make_weight<T>(to_end * steps[t]);
    shared_.from_start_T[t] = device::make_weight<T>(from_start);
    if (t < S::kWidth) {
      const Unit at = unit(i);
      if (p_.dD && plan_.skip_columns > 1) store_skip_gradient(i, t);
      shared_.D[t] = !p_.D || t >= at.width ? 0.0f
                     : p_.D.ndim == 2       ? *p_.D.at<float>(at.head, at.first + t)
                                            : shared_.steps[i % 3].D();
    }
  }

  // Sums of the bands' parts, by the third warpgroup.
  __device__ void gather(int i) {
    const int t = static_cast<int>(threadIdx.x) % Q;
    float row = 0.0f, column = 0.0f;
#pragma unroll
    for (int j = 0; j < Shared::kBands; ++j) {
      if (16 * j <= t) row += shared_.row[j][t];
      if (16 * j + 15 >= t) column += shared_.column[j][t];
    }
    shared_.later[t] = row - shared_.steps[i % 3].values[t] * column;
    shared_.direct[t] = column + shared_.own[t];
    if (!p_.dD) return;
    if (plan_.skip_columns > 1 || t >= device::kWarp) return;
    float skip = 0.0f;
#pragma unroll
    for (int k = 0; k < Q; k += device::kWarp) skip += shared_.skip[k + t];
    skip = device::warp_sum(skip);
    if (t == 0) shared_.skipped = skip;
  }

  // dD by columns, before dx takes the place of x.
  __device__ void store_skip_gradient(int i, int column) {
    const int64_t index = block_.chunk.place * plan_.units(p_.heads) + block_.first + i;
    float sum = 0.0f;
    for (int t = 0; t < Q; ++t) {
      const float2 x = device::unpack_pair<T>(shared_.x[i % 2].word(t, column & ~1));
      const float2 g = device::unpack_pair<T>(shared_.g[i % 2].word(t, column & ~1));
      sum += column % 2 ? x.y * g.y : x.x * g.x;
    }
    plan_.dD[index * plan_.skip_columns + column] = sum;
  }

  // What a unit gives to dt, A and D, by one warp beside the next unit's pairs.
  __device__ void finish(int i) {
    constexpr int K = LaneTokens<S>::kCount;
    const float* const dt = shared_.steps[i % 3].values;
    float later[K], earlier[K], direct[K];
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int t = lane_ * K + k;
      later[k] = shared_.later[t] + shared_.from_h[t];
      direct[k] = shared_.direct[t] + shared_.from_dh[t];
      earlier[k] = dt[t] * shared_.from_dh[t];
    }
    sum_later(later, lane_);
    sum_earlier(earlier, lane_);
    float through = lane_ < kChunkWarps / 2 ? shared_.through[lane_] : 0.0f;
    through = device::warp_sum(through) *
              device::exp2_approx(exponent<S>(shared_.steps[i % 3].values, Q - 1, -1));
#pragma unroll
    for (int k = 0; k < K; ++k) later[k] += earlier[k] + through;
    store_step_gradients<S>(p_, plan_, 0, block_.chunk.place, unit(i), later, direct,
                            shared_.steps[i % 3], lane_);
    if (!p_.dD || plan_.skip_columns > 1 || lane_ != 0) return;
    plan_.dD[block_.chunk.place * plan_.units(p_.heads) + block_.first + i] = shared_.skipped;
  }

  Shared& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const GradientBlock<S>& block_;
  const int count_ = static_cast<int>(block_.last - block_.first);
  const int lane_ = threadIdx.x % device::kWarp, warp_ = threadIdx.x / device::kWarp;
  const Team<kFetchers> team_{static_cast<int>(threadIdx.x) - kFetchers / 2};
};

// Without warpgroup products the kernel is empty and says so by its bounds (cuda_has_warpgroup_gradients).
template <class S>
__global__ void __launch_bounds__(device::kWarpgroupProducts ? kChunkThreads : device::kWarp)
    backward_chunk_kernel(const __grid_constant__ BackwardParams p,
                          const __grid_constant__ CudaBackwardPlan plan,
                          const __grid_constant__ BackwardAccess access) {
  if constexpr (device::kWarpgroupProducts) {
    extern __shared__ __align__(1024) unsigned char panels[];
    const GradientBlock<S> block(p, plan);
    if (block.chunk.tokens == 0) {
      block.clear(plan.dA, plan.units(p.heads), 1);
      if (p.dD) block.clear(plan.dD, plan.units(p.heads), plan.skip_columns);
      return;
    }
    ChunkTile<S> tile(*reinterpret_cast<ChunkShared<S>*>(panels), p, plan, access, block);
    tile.run();
  }
}

}  // namespace hax::ssd
