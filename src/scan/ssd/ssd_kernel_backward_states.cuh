// The states where chunks start and the gradients of those where chunks end, for ssd's backward. A block walks one
// unit of one sequence, forwards or back, its state in registers; tiles arrive some steps ahead.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kWalkThreads = 128;
inline constexpr int kWalkStages = 3;

template <class S>
struct WalkShared {
  struct Stage {
    typename S::T tokens[S::kTokens * S::kWidthRow];  // x, or the gradient of y
    typename S::T rows[S::kTokens * S::kStateRow];    // B, or C
    typename S::T weights[S::kTokens];
    float decays[4];
  } stages[kWalkStages];
};

template <class S>
class Walk {
  using T = typename S::T;
  static constexpr int kWarps = kWalkThreads / device::kWarp;
  static constexpr int kColumns = S::kStates / kWarps < 16 ? 16 : S::kStates / kWarps;
  using State = device::WarpTile<S::kWidth, kColumns>;

 public:
  __device__ Walk(WalkShared<S>& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                  const BackwardAccess& access, bool back, int64_t s, int64_t unit)
      : shared_(shared),
        p_(p),
        plan_(plan),
        access_(access),
        back_(back),
        s_(s),
        range_(p.sequences.range(s)),
        unit_(p, plan.slices, S::kWidth, unit),
        chunks_((range_.length + S::kChunk - 1) / S::kChunk),
        place_(plan.chunks.first_of(p.sequences, s)) {}

  __device__ void run() {
    load(back_ ? p_.dfinal_state : p_.initial_state,
         (back_ ? p_.dfinal_state : p_.initial_state).offset(s_, unit_.head), 1.0f);
    // Forwards the state behind the last chunk is of no use, back the one before the first chunk may be.
    const int64_t steps = 2 * (back_ && p_.dinitial_state ? chunks_ : chunks_ - 1);
    for (int ahead = 0; ahead < kWalkStages - 1; ++ahead) {
      if (ahead < steps) fetch_step(ahead);
      device::commit_copies();
    }
    for (int64_t i = 0; i < steps; ++i) {
      device::wait_for_copies<kWalkStages - 2>();
      __syncthreads();
      if (i + kWalkStages - 1 < steps) fetch_step(i + kWalkStages - 1);
      device::commit_copies();
      if (i % 2 == 0) {
        store_state(i / 2);
        fade(i / 2, shared_.stages[i % kWalkStages].decays[back_]);
      }
      add(shared_.stages[i % kWalkStages]);
    }
    if (chunks_ > 0 && steps < 2 * chunks_) store_state(chunks_ - 1);
    if (back_ && p_.dinitial_state) store_initial_gradient();
  }

 private:
  __device__ bool has_columns() const { return column_ < S::kStates; }
  __device__ int64_t chunk_at(int64_t step) const { return back_ ? chunks_ - 1 - step : step; }

  __device__ void fetch_step(int64_t i) {
    auto& stage = shared_.stages[i % kWalkStages];
    const int64_t chunk = chunk_at(i / 2);
    const int begin = static_cast<int>(i % 2) * S::kTokens;
    const int64_t first = chunk * S::kChunk + begin, token = range_.begin + first;
    const int tokens =
        static_cast<int>(min(int64_t{S::kTokens}, max(int64_t{0}, range_.length - first)));
    if (back_) {
      fetch_output_gradient<S, kWalkThreads>(stage.tokens, p_, access_, range_.row, token, tokens,
                                             unit_);
    } else {
      fetch<kWalkThreads, S::kTokens, S::kWidth, S::kWidthRow>(
          stage.tokens, token_rows<T>(p_.x, access_.x, range_.row, token, tokens, unit_.head,
                                      unit_.first, unit_.width));
    }
    fetch<kWalkThreads, S::kTokens, S::kStates, S::kStateRow>(
        stage.rows,
        token_rows<T>(back_ ? p_.C : p_.B, back_ ? access_.C : access_.B, range_.row, token, tokens,
                      unit_.head / (p_.heads / p_.groups), 0, static_cast<int>(p_.states)));
    const int64_t at = (place_ + chunk) * p_.heads + unit_.head;
    const int64_t direction = back_ ? plan_.chunks.count * p_.heads * S::kChunk : 0;
    fetch_bytes<kWalkThreads>(
        stage.weights, static_cast<const T*>(plan_.weights) + direction + at * S::kChunk + begin,
        sizeof(stage.weights));
    fetch_bytes<kWalkThreads>(stage.decays, plan_.decays + at * 4, sizeof(stage.decays));
  }

  // The decay over a chunk; where a checkpoint falls on it, it takes the state's place.
  __device__ void fade(int64_t step, float decay) {
    if (!back_ && p_.checkpoints) {
      const int64_t begin = step * S::kChunk, end = min(begin + S::kChunk, range_.length);
      const int64_t last = end / p_.checkpoints.every * p_.checkpoints.every;
      if (last > begin) {
        const Tensor& states = p_.checkpoints.states;
        return load(states, p_.checkpoints.offset(range_, last) + unit_.head * states.stride[2],
                    decay);
      }
    }
    state_.for_each([&](float& value, int, int) { value *= decay; });
  }

  __device__ void add(const typename WalkShared<S>::Stage& stage) {
    if (!has_columns()) return;
    const auto weigh = [&](device::LeftFragment<T>& a, int, int k) {
      device::scale_columns(a, stage.weights + k, lane_);
    };
    const auto add_to = [&](State& state) {
      state.add_product(device::transposed(stage.tokens, S::kWidthRow), 0,
                        device::factor(stage.rows, S::kStateRow), column_, 0, S::kTokens, weigh);
    };
    if constexpr (S::kExact) {
      // Tensor cores truncate their sums, which a long memory would gather.
      State part;
      part.clear();
      add_to(part);
#pragma unroll
      for (int i = 0; i < State::kRowBlocks; ++i) {
#pragma unroll
        for (int j = 0; j < State::kColumnBlocks; ++j) {
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
      n += column_;
      if (p < unit_.width && n < p_.states) {
        device::store_any(to, offset + (unit_.first + p) * to.stride[2] + n * to.stride[3], value);
      }
    });
  }

  __device__ void store_state(int64_t step) {
    if (!has_columns()) return;
    const int64_t place = (back_ ? plan_.chunks.count : 0) + place_ + chunk_at(step);
    T* const to = static_cast<T*>(plan_.states) +
                  (place * plan_.units(p_.heads) + unit_.index) * S::kStateSize + column_;
    state_.for_each_pair([&](float a, float b, int p, int n) {
      const float pair[] = {a, b};
      device::store_packed<T, 2>(to + p * S::kStates + n, pair);
    });
  }

  WalkShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const bool back_;
  const int64_t s_;
  const Sequences::Range range_;
  const Unit unit_;
  const int64_t chunks_, place_;
  const int lane_ = threadIdx.x % device::kWarp;
  const int column_ = threadIdx.x / device::kWarp * kColumns;
  State state_;
};

// A block for every (sequence, unit, direction), directions fastest.
template <class S>
__global__ void __launch_bounds__(kWalkThreads)
    backward_states_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ CudaBackwardPlan plan,
                           const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t units = plan.units(p.heads);
  Walk<S> walk(*reinterpret_cast<WalkShared<S>*>(memory), p, plan, access, blockIdx.x % 2 != 0,
               blockIdx.x / 2 / units, blockIdx.x / 2 % units);
  walk.run();
}

}  // namespace hax::ssd
