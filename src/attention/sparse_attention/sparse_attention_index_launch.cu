#include "attention/sparse_attention/sparse_attention_index_launch.cuh"

#include "attention/sparse_attention/sparse_attention_kernel_index.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_lists.cuh"
#include "core/integer.hpp"

namespace hax::sparse_attention {

void prepare_cuda_indices(const Problem& p, const CudaIndices& indices,
                          const device::Launcher& launch) {
  const int64_t query_rows = p.sequences.batch * p.q_heads;
  const int64_t key_rows = p.sequences.batch * p.k_heads;
  const int64_t length = p.sequences.length;
  if (query_rows * length == 0) return;
  if (!indices.key_rank) return;
  const int64_t blocks_of_row = ceil_div(length, kIndexTokens);
  launch(rank_kernel, key_rows * blocks_of_row, kIndexThreads, 0, p, indices);
  if (!indices.bin_begin) return;
  // longest_range lies right behind the bins.
  const int64_t bins = bins_of(p.sequences);
  const int64_t counters = query_rows * (bins + 1);
  launch(clear_kernel, ceil_div(counters, kIndexThreads), kIndexThreads, 0, indices.bin_begin,
         counters);
  if (bins <= kSharedBins) {
    launch(count_shared_kernel, query_rows * ceil_div(length, kSharedQueries), kSharedThreads, 0, p,
           indices);
  } else {
    launch(count_kernel, query_rows * ceil_div(length, kIndexThreads), kIndexThreads, 0, p,
           indices);
  }
  launch(scan_kernel, query_rows, kScanThreads, 0, indices, bins);
  launch(order_kernel, query_rows * blocks_of_row, kIndexThreads, 0, p, indices);
}

void prepare_cuda_forward(const ForwardParams& p, const CudaForwardPlan& plan,
                          const device::Launcher& launch) {
  const Problem& problem = p;
  const int64_t key_rows = p.sequences.batch * p.k_heads;
  if (plan.path.sparse) prepare_cuda_indices(p, plan.indices, launch);
  if (plan.path.lsh && plan.path.dense) {
    launch(short_kernel, p.sequences.count() * (p.q_heads + p.k_heads), kShortThreads, 0, problem,
           plan.indices, plan.lists);
  }
  if (!plan.lists.lists) return;
  const int64_t chunks = key_rows * Tiling{kChunkKeys}.places(p.sequences);
  const int64_t stretches = key_rows * Tiling{kListQueries}.places(p.sequences);
  launch(chunk_kernel, ceil_div(chunks, kChunkThreads / 32), kChunkThreads, 0, problem, plan.lists);
  if (plan.path.hax) {
    launch(few_kernel, p.sequences.count() * p.k_heads, kListThreads, 0, problem, plan.lists);
  }
  launch(list_kernel, stretches, kListThreads, 0, problem, plan.lists);
}

}  // namespace hax::sparse_attention
