// Softmax of a warp's 16 queries as keys come in, in powers of 2. A lane keeps rows r and r + 8 of the fragments.
#pragma once

#include <cfloat>

#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"
#include "device/math.cuh"

namespace hax::sparse_attention {

// max(x, -FLT_MAX), but NaN stays. A selected score of -infinity weighs as little as one can, so that maximum
// -infinity means that nothing was selected.
__device__ inline float above_infinity(float x) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(-FLT_MAX));
  return y;
}

struct RunningSoftmax {
  static constexpr float kSlack = 8.0f;

  // Base of each row: at most kSlack below its maximum.
  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};  // this lane's share

  // Goes on from rows whose outputs are already divided by their sums.
  __device__ void resume(int row, float log2_sum, int lane) {
    maximum[row] = log2_sum;
    sum[row] = lane % 4 == 0 && log2_sum != -INFINITY ? 1.0f : 0.0f;
  }

  // Turns scores, -infinity where not selected, into probabilities relative to the new maximum, and answers by what
  // the outputs so far have to be multiplied.
  template <int B>
  __device__ void take(float (&s)[B][4], float (&correction)[2]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float high = -INFINITY;
#pragma unroll
      for (int n = 0; n < B; ++n) high = fmaxf(high, fmaxf(s[n][2 * row], s[n][2 * row + 1]));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
      // The base follows the maximum only where it has to: factors of 2^kSlack do no harm, and most steps then leave
      // the outputs as they are.
      correction[row] = 1.0f;
      if (!(high <= maximum[row] + kSlack)) {
        // Nothing has to be corrected where there is nothing yet.
        if (maximum[row] != -INFINITY) {
          correction[row] = device::exp2_approx(maximum[row] - high);
        }
        maximum[row] = high;
      }
      const float base = maximum[row] == -INFINITY ? 0.0f : maximum[row];
      float total = 0.0f;
#pragma unroll
      for (int n = 0; n < B; ++n) {
#pragma unroll
        for (int e = 2 * row; e < 2 * row + 2; ++e) {
          s[n][e] = device::exp2_approx(s[n][e] - base);
          total += s[n][e];
        }
      }
      sum[row] = sum[row] * correction[row] + total;
    }
  }

  // Adds up the lanes' shares.
  __device__ void finish() {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      sum[row] += __shfl_xor_sync(0xffffffffu, sum[row], 1);
      sum[row] += __shfl_xor_sync(0xffffffffu, sum[row], 2);
    }
  }
  __device__ bool empty(int row) const { return maximum[row] == -INFINITY && sum[row] == 0.0f; }
  // Only scores of -infinity.
  __device__ bool undefined(int row) const { return maximum[row] == -FLT_MAX && sum[row] > 0.0f; }
  __device__ float log2_sum(int row) const { return maximum[row] + __log2f(sum[row]); }
};

}  // namespace hax::sparse_attention
