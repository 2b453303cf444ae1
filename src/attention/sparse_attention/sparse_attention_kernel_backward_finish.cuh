// The last step of dk and dv where LSH has no part in them.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_spans.cuh"

namespace hax::sparse_attention {

inline constexpr int kFinishThreads = 256;

// dk and dv of keys that LSH has no part in, and that are not summed in one go: their rows, or zeros.
template <class T>
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const __grid_constant__ BackwardParams p,
                  const __grid_constant__ CudaBackwardPlan plan) {
  constexpr int kLanes = 32;
  const int64_t length = p.sequences.length;
  const int64_t element = (int64_t{blockIdx.x} * kFinishThreads + threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  if (element >= p.sequences.batch * p.k_heads * length) return;
  const int64_t key_row = element / length, token = element % length;
  const int64_t row = key_row / p.k_heads, head = key_row % p.k_heads;
  const Sequences::Range range = p.sequences.range(p.sequences.sequence_of(row, token));
  if (range.length <= plan.dense_length) return;
  const auto j = static_cast<int32_t>(token - range.begin);
  const int32_t first_row = plan.first_row[element];
  if (first_row == kDirect) return;
  int64_t row_count = 0;
  if (first_row >= 0) {
    row_count = rows_of(PatternView(p.pattern, range, head), plan, j);
  }
  const float* const rows = plan.rows + (key_row * plan.row_count + first_row) * plan.row_width;
  const auto write = [&](const Tensor& out, int64_t width, int64_t first_column) {
    if (!out) return;
    T* const to = out.at<T>(row, token, head);
    for (int64_t c = lane; c < width; c += kLanes) {
      float sum = 0.0f;
      for (int64_t r = 0; r < row_count; ++r) sum += rows[r * plan.row_width + first_column + c];
      to[c * out.stride[3]] = device::from_float<T>(sum);
    }
  };
  write(p.dk, p.d_qk, 0);
  write(p.dv, p.d_v, plan.v_column);
}

}  // namespace hax::sparse_attention
