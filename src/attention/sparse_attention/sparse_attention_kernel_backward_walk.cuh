// The keys whose spans touch a stretch of queries, ascending, in lists of as many as shared memory takes.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_rows.cuh"

namespace hax::sparse_attention {

template <int kThreads>
struct WalkShared {
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kChunksAtOnce = 2;  // of a thread, when it looks for chunks
  static constexpr int kFewest = 512;      // keys of a list that isn't the last
  static constexpr int kCapacity = kFewest + kWarps * static_cast<int>(kChunkKeys);
  int32_t keys[kCapacity];
  int32_t chunks[kThreads * kChunksAtOnce];
  int32_t counts[kWarps];
};

template <int kThreads>
class KeyWalkInStretch {
 public:
  using Shared = WalkShared<kThreads>;

  __device__ KeyWalkInStretch(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                              const TileRange& tile, int64_t head, const PatternView& view)
      : shared_(shared), view_(view) {
    const int64_t key_row = tile.range.row * p.k_heads + head;
    reaches_ = plan.chunk_reach + reach_place(p, key_row, tile);
    if (plan.first_row) {
      first_row_ = plan.first_row + key_row * p.sequences.length + tile.range.begin;
    }
  }

  // Queries [first, last). with_rows: only keys that have rows.
  __device__ void start(int32_t first, int32_t last, bool with_rows) {
    first_ = first;
    last_ = last;
    with_rows_ = with_rows;
    next_chunk_ = chunk_at_ = chunk_count_ = 0;
  }
  __device__ bool done() const {
    return chunk_at_ == chunk_count_ && next_chunk_ * kChunkKeys >= last_;
  }

  // The length of the next list; 0 when there are no more keys. All threads call it.
  __device__ int fill() {
    int count = 0;
    __syncthreads();  // the last list has been read
    while (count <= Shared::kFewest && !done()) {
      if (chunk_at_ == chunk_count_) {
        find_chunks();
      } else {
        count += open_chunks(count);
      }
    }
    __syncthreads();
    return count;
  }

 private:
  struct Found {
    int before, all;  // in earlier warps, in all
  };
  __device__ Found count(int own) {
    const int warp = static_cast<int>(threadIdx.x / 32);
    if (threadIdx.x % 32 == 0) shared_.counts[warp] = own;
    __syncthreads();
    Found found{0, 0};
#pragma unroll
    for (int w = 0; w < Shared::kWarps; ++w) {
      if (w < warp) found.before += shared_.counts[w];
      found.all += shared_.counts[w];
    }
    __syncthreads();
    return found;
  }

  // Chunks with a span that ends behind the stretch's first query.
  __device__ void find_chunks() {
    const uint32_t earlier = (1u << (threadIdx.x % 32)) - 1;
    chunk_at_ = chunk_count_ = 0;
#pragma unroll
    for (int n = 0; n < Shared::kChunksAtOnce; ++n) {
      const int32_t chunk = next_chunk_ + n * kThreads + static_cast<int32_t>(threadIdx.x);
      const bool open = chunk * kChunkKeys < last_ && reaches_[chunk] > first_;
      const uint32_t votes = __ballot_sync(0xffffffffu, open);
      const Found found = count(__popc(votes));
      if (open) shared_.chunks[chunk_count_ + found.before + __popc(votes & earlier)] = chunk;
      chunk_count_ += found.all;
    }
    next_chunk_ += kThreads * Shared::kChunksAtOnce;
    __syncthreads();
  }

  // Each warp goes through a chunk.
  __device__ int open_chunks(int count_before) {
    constexpr int kRounds = static_cast<int>(kChunkKeys) / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int at = chunk_at_ + static_cast<int>(threadIdx.x / 32);
    uint32_t votes[kRounds];
    int own = 0;
    const int32_t first_key =
        at < chunk_count_ ? shared_.chunks[at] * static_cast<int32_t>(kChunkKeys) : last_;
    int32_t evictions[kRounds], rows[kRounds];  // all are asked for before any is waited for
#pragma unroll
    for (int n = 0; n < kRounds; ++n) {
      const int32_t j = min(first_key + n * 32 + lane, last_ - 1);
      evictions[n] = read_eviction(view_, j);
      rows[n] = with_rows_ ? __ldg(first_row_ + j) : 0;
    }
#pragma unroll
    for (int n = 0; n < kRounds; ++n) {
      const int32_t j = first_key + n * 32 + lane;
      const int32_t reach = reach_of(view_, j, evictions[n]);
      const bool touches = j < last_ && reach > first_ && reach > j && rows[n] >= 0;
      votes[n] = __ballot_sync(0xffffffffu, touches);
      own += __popc(votes[n]);
    }
    const Found found = count(own);
    int to = count_before + found.before;
#pragma unroll
    for (int n = 0; n < kRounds; ++n) {
      if (votes[n] >> lane & 1u) {
        shared_.keys[to + __popc(votes[n] & ((1u << lane) - 1))] = first_key + n * 32 + lane;
      }
      to += __popc(votes[n]);
    }
    chunk_at_ = min(chunk_at_ + Shared::kWarps, chunk_count_);
    return found.all;
  }

  Shared& shared_;
  const PatternView view_;
  const int32_t* reaches_;
  const int32_t* first_row_ = nullptr;
  int32_t first_ = 0, last_ = 0;
  bool with_rows_ = false;
  int32_t next_chunk_ = 0;
  int chunk_at_ = 0, chunk_count_ = 0;
};

}  // namespace hax::sparse_attention
