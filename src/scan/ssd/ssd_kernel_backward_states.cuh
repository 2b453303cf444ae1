// The states where chunks start and the gradients of those where chunks end, for ssd's backward. A block walks one
// unit of one sequence, forwards or back, its state in registers; tiles arrive some steps ahead. Where there are too few
// of these, they are cut into segments: a first pass leaves what each adds to the state, a second one starts from those.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kWalkStages = 3;

template <class S>
struct WalkShared {
  static constexpr int kTokens = S::kTokens / 2;  // a chunk is taken in two steps
  struct Stage {
    typename S::T tokens[kTokens * S::kWidthRow];  // x, or the gradient of y
    typename S::T rows[kTokens * S::kStateRow];    // B, or C
    typename S::T weights[kTokens];
    float decays[4];
  } stages[kWalkStages];
  typename S::T state[S::kWidth * S::kStateRow];  // on its way to memory
};

template <class S>
class Walk {
  using T = typename S::T;
  static constexpr int kTokens = WalkShared<S>::kTokens, kPerChunk = 2;
  static constexpr int kThreads = S::kWalkWarps * device::kWarp;
  static constexpr int kDown = S::kWidth > 32 ? S::kWidth / 32 : 1;
  using Grid = device::WarpGrid<S::kWidth, S::kStates, S::kWalkWarps / kDown, kDown>;

 public:
  __device__ Walk(WalkShared<S>& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                  const BackwardAccess& access, bool back, int64_t s, int64_t unit, int64_t segment,
                  bool only_sum)
      : shared_(shared),
        p_(p),
        plan_(plan),
        access_(access),
        back_(back),
        s_(s),
        range_(p.sequences.range(s)),
        unit_(p, plan.slices, S::kWidth, unit),
        group_(unit_.head / (p.heads / p.groups)),
        chunks_((range_.length + S::kTokens - 1) / S::kTokens),
        place_(plan.chunks.first_of(p.sequences, s)),
        segment_(segment),
        begin_(segment * plan.segment_chunks),
        end_(min(chunks_, begin_ + plan.segment_chunks)),
        only_sum_(only_sum) {}

  // The last warp brings the tiles; the others compute.
  __device__ void run() {
    const bool fetches = threadIdx.x >= kThreads;
    const int64_t steps = count_steps();
    if (fetches) {
      for (int ahead = 0; ahead < kWalkStages - 1; ++ahead) {
        if (ahead < steps) fetch_step(ahead);
        device::commit_copies();
      }
    } else {
      start();
    }
    for (int64_t i = 0; i < steps; ++i) {
      if (fetches) {
        device::wait_for_copies<kWalkStages - 2>();
      } else if (i % kPerChunk == 0 && !only_sum_) {
        put_state();
      }
      __syncthreads();
      if (fetches) {
        if (i + kWalkStages - 1 < steps) fetch_step(i + kWalkStages - 1);
        device::commit_copies();
      } else {
        const auto& stage = shared_.stages[static_cast<int>(i % kWalkStages)];
        if (i % kPerChunk == 0) {
          if (!only_sum_) store_state(begin_ + i / kPerChunk);
          fade(begin_ + i / kPerChunk, stage.decays[back_]);
        }
        add(stage);
      }
    }
    if (ends_with_state(steps)) {
      if (!fetches) put_state();
      __syncthreads();
      if (!fetches) store_state(end_ - 1);
    }
    if (fetches) return;
    if (only_sum_) {
      store_sum();
    } else if (makes_initial_gradient()) {
      store_initial_gradient();
    }
  }

 private:
  __device__ bool makes_initial_gradient() const {
    return back_ && p_.dinitial_state && end_ == chunks_;
  }
  // Forwards the state behind the last chunk is of no use, back the one before the first chunk may be.
  __device__ int64_t count_steps() const {
    return kPerChunk * (end_ - begin_ - (only_sum_ || makes_initial_gradient() ? 0 : 1));
  }
  __device__ bool ends_with_state(int64_t steps) const {
    return end_ > begin_ && steps < kPerChunk * (end_ - begin_);
  }
  __device__ int64_t chunk_at(int64_t step) const { return back_ ? chunks_ - 1 - step : step; }

  __device__ void fetch_step(int64_t i) {
    const Team<device::kWarp> team{lane_};
    auto& stage = shared_.stages[static_cast<int>(i % kWalkStages)];
    const int64_t chunk = chunk_at(begin_ + i / kPerChunk);
    const int begin = static_cast<int>(i % kPerChunk) * kTokens;
    const int64_t first = chunk * S::kTokens + begin, token = range_.begin + first;
    const int tokens =
        static_cast<int>(min(int64_t{kTokens}, max(int64_t{0}, range_.length - first)));
    fetch<kTokens, S::kWidth, S::kWidthRow>(
        team, stage.tokens,
        token_rows<T>(back_ ? plan_.g : p_.x, back_ ? access_.g : access_.x, range_.row, token,
                      tokens, unit_.head, unit_.first, unit_.width));
    fetch<kTokens, S::kStates, S::kStateRow>(
        team, stage.rows,
        token_rows<T>(back_ ? p_.C : p_.B, back_ ? access_.C : access_.B, range_.row, token, tokens,
                      group_, 0, static_cast<int>(p_.states)));
    const int64_t at = (place_ + chunk) * p_.heads + unit_.head;
    const int64_t direction = back_ ? plan_.chunks.count * p_.heads * S::kTokens : 0;
    fetch_bytes(team, stage.weights,
                static_cast<const T*>(plan_.weights) + direction + at * S::kTokens + begin,
                sizeof(stage.weights));
    fetch_bytes(team, stage.decays, plan_.decays + at * 4, sizeof(stage.decays));
  }

  // The decay over a chunk; where a checkpoint falls on it, it takes the state's place.
  __device__ void fade(int64_t step, float decay) {
    if (!back_ && p_.checkpoints) {
      const int64_t begin = step * S::kTokens, end = min(begin + S::kTokens, range_.length);
      const int64_t last = end / p_.checkpoints.every * p_.checkpoints.every;
      if (last > begin) {
        const Tensor& states = p_.checkpoints.states;
        decay_ = 0.0f;
        return load(states, p_.checkpoints.offset(range_, last) + unit_.head * states.stride[2],
                    decay);
      }
    }
    state_.for_each([&](float& value, int, int) { value *= decay; });
    decay_ *= decay;
  }

  // The state before the segment, from the sums of those before it.
  __device__ void start() {
    if (only_sum_) return state_.clear();
    const Tensor& first = back_ ? p_.dfinal_state : p_.initial_state;
    load(first, first.offset(s_, unit_.head), 1.0f);
    for (int64_t i = 0; i < segment_; ++i) {
      const float decay = __ldcg(plan_.segment_decays + walk() * plan_.segments + i);
      const float4* const sums = segment_sums(i);
      int k = 0;
      each_four([&](float (&values)[4]) {
        const float4 sum = __ldcg(sums + k++ * kThreads);
        values[0] = values[0] * decay + sum.x, values[1] = values[1] * decay + sum.y;
        values[2] = values[2] * decay + sum.z, values[3] = values[3] * decay + sum.w;
      });
    }
  }
  __device__ void store_sum() {
    float4* const sums = segment_sums(segment_);
    int k = 0;
    each_four([&](float (&values)[4]) {
      sums[k++ * kThreads] = make_float4(values[0], values[1], values[2], values[3]);
    });
    if (threadIdx.x == 0) plan_.segment_decays[walk() * plan_.segments + segment_] = decay_;
  }
  __device__ int64_t walk() const {
    return (s_ * plan_.units(p_.heads) + unit_.index) * 2 + back_;
  }
  __device__ float4* segment_sums(int64_t segment) const {
    return reinterpret_cast<float4*>(plan_.segment_states) +
           (walk() * plan_.segments + segment) * (S::kStateSize / 4) + threadIdx.x;
  }
  template <class F>
  __device__ void each_four(F&& f) {
#pragma unroll
    for (int i = 0; i < Grid::Tile::kRowBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < Grid::Tile::kColumnBlocks; ++j) f(state_.values[i][j]);
    }
  }

  __device__ void add(const typename WalkShared<S>::Stage& stage) {
    const auto weigh = [&](device::LeftFragment<T>& a, int, int k) {
      device::scale_columns(a, stage.weights + k, lane_);
    };
    const auto add_to = [&](typename Grid::Tile& state) {
      state.add_product(device::transposed(stage.tokens, S::kWidthRow), row_,
                        device::factor(stage.rows, S::kStateRow), column_, 0, kTokens, weigh);
    };
    if constexpr (S::kExact) {
      // Tensor cores truncate their sums, which a long memory would gather.
      typename Grid::Tile part;
      part.clear();
      add_to(part);
#pragma unroll
      for (int i = 0; i < Grid::Tile::kRowBlocks; ++i) {
#pragma unroll
        for (int j = 0; j < Grid::Tile::kColumnBlocks; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) state_.values[i][j][e] += part.values[i][j][e];
        }
      }
    } else {
      add_to(state_);
    }
  }

  // offset: of the head's (P, N) in `states`, the last axes of which they are.
  __device__ void load(const Tensor& states, int64_t offset, float decay) {
    const int64_t width_stride = states ? states.stride[states.ndim - 2] : 0;
    const int64_t stride = states ? states.stride[states.ndim - 1] : 0;
    state_.for_each([&](float& value, int p, int n) {
      p += row_;
      n += column_;
      value = states && p < unit_.width && n < p_.states
                  ? decay * device::load_any(states,
                                             offset + (unit_.first + p) * width_stride + n * stride)
                  : 0.0f;
    });
  }

  __device__ void store_initial_gradient() {
    const Tensor& to = p_.dinitial_state;
    const int64_t offset = to.offset(s_, unit_.head);
    state_.for_each([&](float& value, int p, int n) {
      p += row_;
      n += column_;
      if (p < unit_.width && n < p_.states) {
        device::store_any(to, offset + (unit_.first + p) * to.stride[2] + n * to.stride[3], value);
      }
    });
  }

  __device__ void put_state() {
    state_.for_each_pair([&](float a, float b, int p, int n) {
      const float pair[] = {a, b};
      device::store_packed<T, 2>(shared_.state + (row_ + p) * S::kStateRow + column_ + n, pair);
    });
  }
  __device__ void store_state(int64_t step) {
    const int64_t place = (back_ ? plan_.chunks.count : 0) + place_ + chunk_at(step);
    T* const to = static_cast<T*>(plan_.states) +
                  (place * plan_.units(p_.heads) + unit_.index) * S::kStateSize;
    store_rows<S::kWidth, S::kStates, S::kStateRow>(
        Team<kThreads>{static_cast<int>(threadIdx.x)},
        OutputRows<T>{to, S::kStates, 1, S::kWidth, S::kStates, true}, shared_.state);
  }

  WalkShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const bool back_;
  const int64_t s_;
  const Sequences::Range range_;
  const Unit unit_;
  const int64_t group_, chunks_, place_, segment_;
  const int64_t begin_, end_;  // chunks of the segment, counted as they are walked
  const bool only_sum_;
  float decay_ = 1.0f;  // over what was walked
  const int lane_ = threadIdx.x % device::kWarp;
  const int row_ = Grid::row(threadIdx.x / device::kWarp);
  const int column_ = Grid::column(threadIdx.x / device::kWarp);
  typename Grid::Tile state_;
};

// A block for every (segment, sequence, unit, direction), directions fastest.
template <class S>
__global__ void __launch_bounds__((S::kWalkWarps + 1) * device::kWarp, 2)
    backward_states_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ CudaBackwardPlan plan,
                           const __grid_constant__ BackwardAccess access, bool only_sum) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t units = plan.units(p.heads), walks = units * p.sequences.count();
  const int64_t index = blockIdx.x / 2 % walks;
  Walk<S> walk(*reinterpret_cast<WalkShared<S>*>(memory), p, plan, access, blockIdx.x % 2 != 0,
               index / units, index % units, blockIdx.x / 2 / walks, only_sum);
  walk.run();
}

}  // namespace hax::ssd
