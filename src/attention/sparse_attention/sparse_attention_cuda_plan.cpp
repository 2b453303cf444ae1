// Which kernels a call on a GPU needs, and the workspace of its indices.
#include <algorithm>

#include "attention/sparse_attention/sparse_attention.hpp"

namespace hax::sparse_attention {

CudaPath choose_cuda_path(const Problem& p) {
  const Pattern& pattern = p.pattern;
  const bool full = pattern.has(HAX_PATTERN_FULL);
  CudaPath path;
  path.lsh = !full && pattern.has(HAX_PATTERN_LSH);
  path.select = !full && pattern.has(HAX_PATTERN_KEY_SELECTION);
  path.others = pattern.bits != HAX_PATTERN_LSH;
  path.hax = pattern.bits == (HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION);
  path.sparse = p.sequences.longest > kDenseLength;
  path.dense = (path.lsh || path.select) && (p.sequences.packed() || !path.sparse);
  return path;
}

CudaIndices plan_cuda_indices(const Problem& p, const CudaPath& path, Workspace& workspace) {
  const Sequences& sequences = p.sequences;
  const int64_t query_rows = sequences.batch * p.q_heads;
  const int64_t key_rows = sequences.batch * p.k_heads;
  const int64_t length = sequences.length;
  CudaIndices indices;
  if (path.lsh) {
    indices.key_rank = workspace.take<int32_t>(key_rows * length);
    if (path.sparse) {
      // The ranges' counters are cleared together with the bins.
      const int64_t bins = query_rows * (Tiling{kBinEnds}.places(sequences) + 1);
      indices.bin_begin = workspace.take<int32_t>(bins + query_rows);
      indices.longest_range = indices.bin_begin ? indices.bin_begin + bins : nullptr;
      indices.query_order = workspace.take<int32_t>(query_rows * length);
      indices.per_query = workspace.take<int32_t>(query_rows * length);
    }
  }
  return indices;
}

CudaForwardPlan plan_cuda_forward(const ForwardParams& p, Workspace& workspace) {
  const Sequences& sequences = p.sequences;
  const int64_t query_rows = sequences.batch * p.q_heads;
  const int64_t key_rows = sequences.batch * p.k_heads;
  const int64_t length = sequences.length;
  CudaForwardPlan plan = {};
  plan.path = choose_cuda_path(p);
  plan.indices = plan_cuda_indices(p, plan.path, workspace);
  if (plan.path.lsh && !plan.path.sparse) {
    plan.indices.query_order = workspace.take<int32_t>(query_rows * length);
  }
  const bool short_kernel = size_of(p.q.type) == 2 && p.d_qk <= 64 && p.d_v <= 128;
  if (plan.path.hax && plan.path.dense && short_kernel) {
    plan.lists.short_queries = workspace.take<OrderedQuery>(query_rows * length);
  }
  if (plan.path.select && plan.path.sparse) {
    const int64_t chunks = key_rows * Tiling{kChunkKeys}.places(sequences);
    plan.lists.chunk_eviction = workspace.take<int32_t>(chunks);
    plan.lists.chunk_count = workspace.take<int32_t>(chunks);
    plan.lists.length = workspace.take<int32_t>(key_rows * Tiling{kListQueries}.places(sequences));
    plan.lists.lists = workspace.take<int32_t>(key_rows * kListKeysPerQuery * length);
  }
  if (plan.path.hax) {
    plan.lists.selected_count = workspace.take<int32_t>(key_rows * sequences.count());
    plan.lists.selected = workspace.take<SelectedKey>(key_rows * CudaLists::few_length(sequences));
  }
  return plan;
}

}  // namespace hax::sparse_attention
