// A walk through the chunks of a unit of a sequence, forwards for h, back for dh, or through a segment of them. Where there are
// few walks they are cut: a first pass leaves what each segment adds to the state, a second one starts from those.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

struct WalkIndex {
  bool back;
  int64_t s, unit, segment;
  bool only_sum;  // the first pass
};

// Tile: a thread's part of the state, from (row, column) on; kThreads threads share it.
template <class S, class Tile, int kThreads>
class SegmentWalk {
 public:
  __device__ SegmentWalk(const BackwardParams& p, const CudaBackwardPlan& plan,
                         const WalkIndex& index, int row, int column)
      : p_(p),
        plan_(plan),
        back_(index.back),
        only_sum_(index.only_sum),
        s_(index.s),
        segment_(index.segment),
        range_(p.sequences.range(index.s)),
        unit_(p, plan.slices, S::kWidth, index.unit),
        group_(unit_.head / (p.heads / p.groups)),
        place_(Chunks{S::kTokens, plan.chunks.count}.first_of(p.sequences, index.s)),
        chunks_(static_cast<int>((range_.length + S::kTokens - 1) / S::kTokens)),
        begin_(static_cast<int>(index.segment * plan.segment_chunks)),
        end_(static_cast<int>(min(int64_t{chunks_}, begin_ + plan.segment_chunks))),
        row_(row),
        column_(column) {}

 protected:
  __device__ bool makes_initial_gradient() const {
    return back_ && p_.dinitial_state && end_ == chunks_;
  }
  // Whether the state behind the segment's last chunk is of use. Forwards it isn't, back it may be.
  __device__ bool goes_to_end() const { return only_sum_ || makes_initial_gradient(); }
  // Chunks are counted as they are walked.
  __device__ int chunk_at(int step) const { return back_ ? chunks_ - 1 - step : step; }
  __device__ typename S::T* state_of(int step) const {
    const int64_t place = (back_ ? plan_.chunks.count : 0) + place_ + chunk_at(step);
    return static_cast<typename S::T*>(plan_.states) +
           (place * plan_.units(p_.heads) + unit_.index) * S::kStateSize;
  }

  // Before the segment, from the sums of those before it.
  __device__ void start() {
    if (only_sum_) return state_.clear();
    const Tensor& first = back_ ? p_.dfinal_state : p_.initial_state;
    load(first, first.offset(s_, unit_.head), 1.0f);
    for (int64_t i = 0; i < segment_; ++i) {
      const float decay = __ldcg(plan_.segment_decays + walk() * plan_.segments + i);
      const float4* const sums = segment_sums(i);
      int k = 0;
      each_four([&](float(&values)[4]) {
        const float4 sum = __ldcg(sums + k++ * kThreads);
        values[0] = values[0] * decay + sum.x, values[1] = values[1] * decay + sum.y;
        values[2] = values[2] * decay + sum.z, values[3] = values[3] * decay + sum.w;
      });
    }
  }

  // The decay over a chunk; where a checkpoint falls on it, it takes the state's place.
  __device__ void fade(int step, float decay) {
    if (!back_ && p_.checkpoints) {
      const int64_t begin = int64_t{step} * S::kTokens,
                    end = min(begin + S::kTokens, range_.length);
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

  // Behind the segment.
  __device__ void finish(int thread) {
    if (only_sum_) {
      float4* const sums = segment_sums(segment_);
      int k = 0;
      each_four([&](float(&values)[4]) {
        sums[k++ * kThreads] = make_float4(values[0], values[1], values[2], values[3]);
      });
      if (thread == 0) plan_.segment_decays[walk() * plan_.segments + segment_] = decay_;
    } else if (makes_initial_gradient()) {
      const Tensor& to = p_.dinitial_state;
      const int64_t offset = to.offset(s_, unit_.head);
      state_.for_each([&](float& value, int p, int n) {
        p += row_;
        n += column_;
        if (p < unit_.width && n < p_.states) {
          device::store_any(to, offset + (unit_.first + p) * to.stride[2] + n * to.stride[3],
                            value);
        }
      });
    }
  }

  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const bool back_, only_sum_;
  const int64_t s_, segment_;
  const Sequences::Range range_;
  const Unit unit_;
  const int64_t group_, place_;
  const int chunks_, begin_, end_;
  const int row_, column_;
  Tile state_;

 private:
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
  __device__ int64_t walk() const { return (s_ * plan_.units(p_.heads) + unit_.index) * 2 + back_; }
  __device__ float4* segment_sums(int64_t segment) const {
    return reinterpret_cast<float4*>(plan_.segment_states) +
           (walk() * plan_.segments + segment) * (S::kStateSize / 4) +
           static_cast<int>(threadIdx.x) % kThreads;
  }
  template <class F>
  __device__ void each_four(F&& f) {
#pragma unroll
    for (int i = 0; i < Tile::kRowBlocks; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kColumnBlocks; ++j) f(state_.values[i][j]);
    }
  }

  float decay_ = 1.0f;  // over what was walked
};

}  // namespace hax::ssd
