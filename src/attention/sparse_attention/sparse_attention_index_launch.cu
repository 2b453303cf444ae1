#include "attention/sparse_attention/sparse_attention_index_launch.cuh"

#include "attention/sparse_attention/sparse_attention_kernel_index.cuh"
#include "core/integer.hpp"

namespace hax::sparse_attention {

void prepare_cuda_indices(const Problem& p, const CudaIndices& indices,
                          const device::Launcher& launch) {
  const int64_t query_rows = p.sequences.batch * p.q_heads;
  const int64_t key_rows = p.sequences.batch * p.k_heads;
  const int64_t length = p.sequences.length;
  if (query_rows * length == 0) return;
  if (indices.key_rank) {
    const bool with_bins = indices.bin_begin != nullptr;
    const int64_t bins = bins_of(p.sequences);
    if (with_bins) {
      // longest_range lies right behind the bins.
      const int64_t counters = query_rows * (bins + 1);
      launch(clear_kernel, ceil_div(counters, kIndexThreads), kIndexThreads, 0, indices.bin_begin,
             counters);
    }
    launch(count_kernel, ceil_div((with_bins ? query_rows : key_rows) * length, kIndexThreads),
           kIndexThreads, 0, p, indices, with_bins);
    if (with_bins) {
      launch(scan_kernel, query_rows, kScanThreads, 0, indices, bins);
      launch(order_kernel, ceil_div(query_rows * length, kIndexThreads), kIndexThreads, 0, p,
             indices);
    }
  }
  if (indices.lists) {
    const int64_t chunks = key_rows * Tiling{kChunkKeys}.places(p.sequences);
    launch(chunk_kernel, ceil_div(chunks, kIndexThreads / 32), kIndexThreads, 0, p, indices);
    launch(list_kernel, key_rows * Tiling{kListQueries}.places(p.sequences), kListThreads, 0, p,
           indices);
  }
}

}  // namespace hax::sparse_attention
