// Rows in the workspace that hold what stretches of a key's span add to dk and dv.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"

namespace hax::sparse_attention {

// The mark of the stretch that holds a tile; null where there are none.
__device__ inline int32_t* apart(const Problem& p, const CudaBackwardPlan& plan,
                                 const TileRange& tile, int64_t head) {
  if (!plan.apart) return nullptr;
  const Tiling stretches{int64_t{1} << plan.stretch_log2};
  return plan.apart + (tile.range.row * p.k_heads + head) * stretches.places(p.sequences) +
         stretches.first_place(p.sequences, tile.s, tile.range.begin) +
         (tile.first >> plan.stretch_log2);
}
// Whether its keys and its queries are left to the kernels for lists.
__device__ inline bool is_apart(const Problem& p, const CudaBackwardPlan& plan,
                                const TileRange& tile, int64_t head) {
  const int32_t* const mark = apart(p, plan, tile, head);
  return !mark || *mark != 0;
}

// Rows of a key that has some.
__device__ inline int32_t rows_of(const PatternView& view, const CudaBackwardPlan& plan,
                                  int32_t j) {
  return ((view.reach(j) - 1) >> plan.stretch_log2) - (j >> plan.stretch_log2) + 1;
}

// Those of key j; none if it isn't there.
struct KeyRows {
  const float* first = nullptr;
  int32_t count = 0;

  KeyRows() = default;
  __device__ KeyRows(const BackwardParams& p, const CudaBackwardPlan& plan,
                     const Sequences::Range& range, const PatternView& view, int64_t head,
                     int32_t j) {
    if (!plan.first_row || j < 0) return;
    const int64_t key_row = range.row * p.k_heads + head;
    const int32_t row = plan.first_row[key_row * p.sequences.length + range.begin + j];
    if (row < 0) return;
    first = plan.rows + (key_row * plan.row_count + row) * plan.row_width;
    count = rows_of(view, plan, j);
  }
};

}  // namespace hax::sparse_attention
