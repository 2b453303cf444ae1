// What segments of the selective scan's backward that run side by side get from each other.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_layout.cuh"

namespace hax::selective_scan {

// What several stretches of tokens give, each faded by those in between. Where nothing passes through, neither
// does a NaN.
class Gathered {
 public:
  __device__ explicit Gathered(float (&sum)[8]) : sum_(sum) {
#pragma unroll
    for (int k = 0; k < 8; ++k) sum_[k] = 0.0f, through_[k] = 1.0f;
  }
  __device__ void add(const float* from) {
    float own[8];
    load_numbers(own, from);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      sum_[k] = through_[k] != 0.0f ? fmaf(through_[k], own[k], sum_[k]) : sum_[k];
    }
  }
  __device__ void pass(const float* from) {
    float decay[8];
    load_numbers(decay, from);
#pragma unroll
    for (int k = 0; k < 8; ++k) through_[k] *= decay[k];
  }

 private:
  float (&sum_)[8];
  float through_[8];
};

// The gradient that comes into a segment's end: `row_segment`, of those of all rows, from the `count` behind it.
template <class S>
__device__ void gather_adjoints(float (&to)[8], const CudaBackwardPlan& plan, int64_t row_segment,
                                int64_t count, int64_t block, const LanePlace& place) {
  Gathered gathered(to);
#pragma unroll 4
  for (int64_t i = 1; i <= count; ++i) {
    const int64_t at = numbers_place<S>(plan, row_segment + i, block, place);
    gathered.add(plan.adjoints + at);
    gathered.pass(plan.decays + at);
  }
}

// The state that comes into a segment's walk, to plan.carried; its sequence starts in walk `first`.
template <class S>
__device__ void gather_states(const CudaBackwardPlan& plan, int64_t row, int64_t segment,
                              int64_t first, int64_t block, const LanePlace& place) {
  float carry[8];
  Gathered gathered(carry);
  for (int64_t walk = segment / plan.walk - 1; walk >= first; --walk) {
    gathered.add(plan.walk_states + numbers_place<S>(plan, row * plan.walks + walk, block, place));
    if (walk == first) break;
#pragma unroll 4
    for (int64_t i = 0; i < plan.walk; ++i) {
      const int64_t of_row = walk * plan.walk + i;
      gathered.pass(plan.decays +
                    numbers_place<S>(plan, row * plan.segments + of_row, block, place));
    }
  }
  store_numbers(plan.carried + numbers_place<S>(plan, row * plan.segments + segment, block, place),
                carry);
}

// The state that came into a walk, and the steps from there to a tile.
struct Carry {
  float h[8], dt[2];

  // From the block's numbers and its sums of dt.
  __device__ void load(const float* numbers, const float* elapsed, const LanePlace& place) {
    load_numbers(h, numbers + place.warp * kWarpNumbers + place.lane * 4);
    const float2 steps = *reinterpret_cast<const float2*>(elapsed + place.channel);
    dt[0] = steps.x, dt[1] = steps.y;
  }
  // What is left of it, to the state found from 0.
  __device__ void add_to(float (&state)[8], const float (&rate)[8]) const {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      state[k] = fmaf(device::exp2_approx(dt[k / 2 % 2] * rate[k]), h[k], state[k]);
    }
  }
};

}  // namespace hax::selective_scan
