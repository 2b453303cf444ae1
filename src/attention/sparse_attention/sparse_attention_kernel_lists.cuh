// Preparation of forward's lists of selected keys.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_block.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

inline constexpr int kChunkThreads = 256;
inline constexpr int kListThreads = 1024;

// The latest eviction of a chunk's selected keys, and their number. A warp takes a chunk.
__global__ void __launch_bounds__(kChunkThreads)
    chunk_kernel(const __grid_constant__ Problem p, const CudaLists lists) {
  constexpr int kWarps = kChunkThreads / 32;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t places = Tiling{kChunkKeys}.places(p.sequences);
  const int64_t key_row = chunk / places;
  if (key_row >= p.sequences.batch * p.k_heads) return;
  const TileRange tile = find_tile(p.sequences, {kChunkKeys}, key_row / p.k_heads, chunk % places);
  const PatternView view(p.pattern, tile.range, key_row % p.k_heads);
  int32_t latest = 0, selected = 0;
#pragma unroll
  for (int i = 0; i < kChunkKeys / 32; ++i) {
    const int64_t j = tile.first + i * 32 + threadIdx.x % 32;
    if (j >= tile.last) continue;
    const uint32_t life = view.life(static_cast<int32_t>(j));
    if (life == 0) continue;
    latest = max(latest, static_cast<int32_t>(j + life));
    ++selected;
  }
  latest = __reduce_max_sync(0xffffffffu, latest);
  selected = __reduce_add_sync(0xffffffffu, selected);
  if (threadIdx.x % 32 != 0) return;
  lists.chunk_eviction[chunk] = latest;
  lists.chunk_count[chunk] = selected;
}

// The selected keys of a stretch of queries. A block takes a list: it finds the chunks that may hold any, then each warp
// goes through one of them.
__global__ void __launch_bounds__(kListThreads)
    list_kernel(const __grid_constant__ Problem p, const CudaLists lists) {
  constexpr int kWarps = kListThreads / 32, kRounds = static_cast<int>(kChunkKeys) / 32;
  __shared__ int32_t chunks[kListThreads];
  __shared__ BlockCount<kListThreads> count;
  const auto places = static_cast<uint32_t>(Tiling{kListQueries}.places(p.sequences));
  const int64_t key_row = blockIdx.x / places;
  const TileRange tile =
      find_tile(p.sequences, {kListQueries}, key_row / p.k_heads, blockIdx.x % places);
  const int64_t number = tile.first / kListQueries;
  if (tile.range.length <= kDenseLength || tile.first >= tile.last ||
      number >= count_stretches(tile.range.length)) {
    return;
  }
  if (find_few_selected(lists, p.sequences, tile, key_row).keys) return;
  const Stretch stretch(p.sequences, tile.range, tile.s, number);
  const PatternView view(p.pattern, tile.range, key_row % p.k_heads);
  const int64_t chunk_row = key_row * Tiling{kChunkKeys}.places(p.sequences) +
                            Tiling{kChunkKeys}.first_place(p.sequences, tile.s, tile.range.begin);
  int32_t* const list = list_of(lists, p.sequences, tile.range, stretch, key_row);
  const int64_t capacity = stretch.capacity();
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);

  int32_t length = 0;
  for (int64_t first = 0; first * kChunkKeys < stretch.last && length <= capacity;
       first += kListThreads) {
    const int64_t chunk = first + threadIdx.x;
    const bool holds = chunk * kChunkKeys < stretch.last &&
                       lists.chunk_eviction[chunk_row + chunk] > stretch.first;
    const auto found = count(holds);
    if (holds) chunks[found.before] = static_cast<int32_t>(chunk);
    __syncthreads();
    for (int32_t c = 0; c < found.all && length <= capacity; c += kWarps) {
      uint32_t life[kRounds], votes[kRounds];
      int32_t mine = 0;
      const int32_t begin =
          c + warp < found.all ? chunks[c + warp] * static_cast<int32_t>(kChunkKeys) : INT32_MAX;
#pragma unroll
      for (int k = 0; k < kRounds; ++k) {
        const int64_t j = int64_t{begin} + k * 32 + lane;
        life[k] = j < stretch.last ? view.life(static_cast<int32_t>(j)) : 0;
      }
#pragma unroll
      for (int k = 0; k < kRounds; ++k) {
        const int64_t j = int64_t{begin} + k * 32 + lane;
        const bool attended = life[k] > 0 && j + life[k] > stretch.first;
        votes[k] = __ballot_sync(0xffffffffu, attended);
        mine += __popc(votes[k]);
      }
      // Of each warp its first lane counts.
      const auto keys = count(lane == 0 ? mine : 0);
      int64_t to = length + __shfl_sync(0xffffffffu, keys.before, 0);
#pragma unroll
      for (int k = 0; k < kRounds; ++k) {
        const int64_t at = to + __popc(votes[k] & ((1u << lane) - 1));
        if ((votes[k] >> lane & 1) && at < capacity) list[at] = begin + k * 32 + lane;
        to += __popc(votes[k]);
      }
      length += keys.all;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) lists.length[blockIdx.x] = length;
}

// All selected keys of longer sequences where they are few. A block takes a key head of a sequence.
__global__ void __launch_bounds__(kListThreads)
    few_kernel(const __grid_constant__ Problem p, const CudaLists lists) {
  __shared__ SelectedKey selected[kFewSelected];
  __shared__ struct {
    int32_t number, place;
  } chunks[kFewSelected];  // that hold selected keys, and where these go
  __shared__ BlockCount<kListThreads> count;
  const auto heads = static_cast<uint32_t>(p.k_heads);
  const int64_t s = blockIdx.x / heads, head = blockIdx.x % heads;
  const Sequences::Range range = p.sequences.range(s);
  if (range.length <= kDenseLength) return;
  const int64_t key_row = range.row * p.k_heads + head;
  const Tiling tiling{kChunkKeys};
  const int32_t* const chunk_count = lists.chunk_count + key_row * tiling.places(p.sequences) +
                                     tiling.first_place(p.sequences, s, range.begin);
  int32_t all = 0, holding = 0;
  for (int64_t first = 0; first * kChunkKeys < range.length && all <= kFewSelected;
       first += kListThreads) {
    const int64_t chunk = first + threadIdx.x;
    const int32_t keys = chunk * kChunkKeys < range.length ? chunk_count[chunk] : 0;
    const auto places = count(keys);
    const auto numbers = count(keys > 0 ? 1 : 0);
    if (keys > 0 && all + places.all <= kFewSelected) {
      chunks[holding + numbers.before] = {static_cast<int32_t>(chunk), all + places.before};
    }
    all += places.all;
    holding += numbers.all;
  }
  if (threadIdx.x == 0) {
    lists.selected_count[p.sequences.packed() ? key_row * p.sequences.count() + s : key_row] = all;
  }
  if (all > kFewSelected) return;
  __syncthreads();
  const PatternView view(p.pattern, range, head);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int32_t c = warp; c < holding; c += kListThreads / 32) {
    int32_t to = chunks[c].place;
#pragma unroll
    for (int k = 0; k < kChunkKeys / 32; ++k) {
      const int32_t j = chunks[c].number * static_cast<int32_t>(kChunkKeys) + k * 32 + lane;
      const uint32_t life = j < range.length ? view.life(j) : 0;
      const uint32_t votes = __ballot_sync(0xffffffffu, life > 0);
      if (life > 0) {
        selected[to + __popc(votes & ((1u << lane) - 1))] = {j, static_cast<int32_t>(j + life)};
      }
      to += __popc(votes);
    }
  }
  __syncthreads();
  store_sorted(lists.few_begin(p.sequences, range, key_row), selected, all);
}

}  // namespace hax::sparse_attention
