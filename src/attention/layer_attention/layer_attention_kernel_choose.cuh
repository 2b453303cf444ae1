// Short sequences: buckets and key selection, and the indices by which attention finds both, in one launch.
#pragma once

#include "attention/layer_attention/layer_attention_cuda.hpp"
#include "attention/sparse_attention/sparse_attention_kernel_short.cuh"
#include "device/early_start.cuh"
#include "hash/key_select/key_select_kernel_short.cuh"
#include "hash/lsh_bucket/lsh_bucket_kernel_short.cuh"

namespace hax::layer_attention {

inline constexpr int kChooseThreads = lsh_bucket::kShortThreads;
static_assert(kChooseThreads == sparse_attention::kShortThreads &&
              kChooseThreads == key_select::kShortThreads);
static_assert(sparse_attention::kDenseLength <= key_select::kChunkTokens &&
              sparse_attention::kDenseLength <= lsh_bucket::kCudaShortTokens);

// What a block needs at one time.
template <int V>
union ChooseMemory {
  lsh_bucket::ShortMemory<lsh_bucket::JointKey> bucket;
  sparse_attention::ShortQueries queries;
  key_select::ShortMemory<V> walk;
  sparse_attention::ShortKeys keys;
};

// Two blocks for every (sequence, key head): one for LSH, one for key selection. Budgets of up to 32 V keys.
template <int V>
__global__ void __launch_bounds__(kChooseThreads)
    choose_kernel(const __grid_constant__ ShortChoice c) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<ChooseMemory<V>*>(memory);
  const sparse_attention::Problem& p = c.problem;
  const int64_t row = blockIdx.x / 2, s = row / p.k_heads, head = row % p.k_heads;
  device::wait_for_previous();
  device::start_next();
  const Sequences::Range range = p.sequences.range(s);
  if (range.length <= 0 || range.length > sparse_attention::kDenseLength) return;
  if (blockIdx.x % 2 == 0) {
    lsh_bucket::bucket_short(c.bucket, range, head, shared.bucket);
    __syncthreads();
    sparse_attention::rank_short_keys(p, range, head, c.indices);
    for (int64_t h = head * p.group(); h < (head + 1) * p.group(); ++h) {
      sparse_attention::order_short_queries(p, range, h, c.indices, c.lists, shared.queries);
    }
  } else {
    key_select::walk_short(c.select, range, head, shared.walk);
    __syncthreads();
    if (c.lists.selected) {
      sparse_attention::list_short_keys(p, s, range, head, c.lists, shared.keys);
    }
  }
}

}  // namespace hax::layer_attention
