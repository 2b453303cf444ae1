// Preparation of forward's lists of selected keys, and of everything for short sequences.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

inline constexpr int kChunkThreads = 256;
inline constexpr int kListThreads = 1024;
inline constexpr int kCollectThreads = 256;
inline constexpr int kShortThreads = 512;

// Numbers the threads of a block that have something, in their order.
template <int kThreads>
struct BlockCount {
  int32_t warps[kThreads / 32];

  struct Result {
    int32_t before, all;
  };
  // `mine` things of this thread; all threads call it.
  __device__ Result operator()(int32_t mine) {
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    int32_t sum = mine;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, sum, d);
      if (lane >= d) sum += other;
    }
    if (lane == 31) warps[warp] = sum;
    __syncthreads();
    const int32_t of_warp = lane < kThreads / 32 ? warps[lane] : 0;
    const int32_t all = __reduce_add_sync(0xffffffffu, of_warp);
    const int32_t before = __reduce_add_sync(0xffffffffu, lane < warp ? of_warp : 0);
    __syncthreads();
    return {before + sum - mine, all};
  }
};

// The latest eviction of a chunk's selected keys. A warp takes a chunk.
__global__ void __launch_bounds__(kChunkThreads)
    chunk_kernel(const __grid_constant__ Problem p, const CudaLists lists) {
  constexpr int kWarps = kChunkThreads / 32;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t places = Tiling{kChunkKeys}.places(p.sequences);
  const int64_t key_row = chunk / places;
  if (key_row >= p.sequences.batch * p.k_heads) return;
  const TileRange tile = find_tile(p.sequences, {kChunkKeys}, key_row / p.k_heads, chunk % places);
  const PatternView view(p.pattern, tile.range, key_row % p.k_heads);
  int32_t latest = 0;
#pragma unroll
  for (int i = 0; i < kChunkKeys / 32; ++i) {
    const int64_t j = tile.first + i * 32 + threadIdx.x % 32;
    if (j >= tile.last) continue;
    const uint32_t life = view.life(static_cast<int32_t>(j));
    if (life > 0) latest = max(latest, static_cast<int32_t>(j + life));
  }
  latest = __reduce_max_sync(0xffffffffu, latest);
  if (threadIdx.x % 32 == 0) lists.chunk_eviction[chunk] = latest;
}

// The selected keys of a stretch of queries. A block takes a list: it finds the chunks that may hold any, then goes
// through their keys, kListThreads at a time.
__global__ void __launch_bounds__(kListThreads)
    list_kernel(const __grid_constant__ Problem p, const CudaLists lists) {
  constexpr int kChunksAtOnce = kListThreads / static_cast<int>(kChunkKeys);
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
  const Stretch stretch(p.sequences, tile.range, tile.s, number);
  const PatternView view(p.pattern, tile.range, key_row % p.k_heads);
  const int64_t chunk_row = key_row * Tiling{kChunkKeys}.places(p.sequences) +
                            Tiling{kChunkKeys}.first_place(p.sequences, tile.s, tile.range.begin);
  SelectedKey* const list = list_of(lists, p.sequences, tile.range, stretch, key_row);
  const int64_t capacity = stretch.capacity();

  int32_t length = 0, older = 0;
  for (int64_t first = 0; first * kChunkKeys < stretch.last && length <= capacity;
       first += kListThreads) {
    const int64_t chunk = first + threadIdx.x;
    const bool holds = chunk * kChunkKeys < stretch.last &&
                       lists.chunk_eviction[chunk_row + chunk] > stretch.first;
    const auto found = count(holds);
    if (holds) chunks[found.before] = static_cast<int32_t>(chunk);
    __syncthreads();
    for (int32_t c = 0; c < found.all && length <= capacity; c += kChunksAtOnce) {
      const int32_t at = c + static_cast<int32_t>(threadIdx.x / kChunkKeys);
      int32_t j = INT32_MAX;
      uint32_t life = 0;
      if (at < found.all) {
        j = chunks[at] * static_cast<int32_t>(kChunkKeys) +
            static_cast<int32_t>(threadIdx.x % kChunkKeys);
        if (j < stretch.last) life = view.life(j);
      }
      const bool attended = life > 0 && j + static_cast<int64_t>(life) > stretch.first;
      const auto keys = count(attended);
      if (attended && length + keys.before < capacity) {
        list[length + keys.before] = {j, static_cast<int32_t>(j + life)};
      }
      length += keys.all;
      older += __syncthreads_count(attended && j < stretch.first);
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    lists.length[blockIdx.x] = length;
    lists.older[blockIdx.x] = older;
  }
}

// Gathers the lists of a sequence without what they share, if that is few enough. A block takes a list.
__global__ void __launch_bounds__(kCollectThreads)
    collect_kernel(const __grid_constant__ Problem p, const CudaLists lists) {
  __shared__ BlockCount<kCollectThreads> count;
  const auto places = static_cast<uint32_t>(Tiling{kListQueries}.places(p.sequences));
  const int64_t key_row = blockIdx.x / places;
  const TileRange tile =
      find_tile(p.sequences, {kListQueries}, key_row / p.k_heads, blockIdx.x % places);
  const int64_t number = tile.first / kListQueries, stretches = count_stretches(tile.range.length);
  if (tile.range.length <= kDenseLength || tile.first >= tile.last || number >= stretches) return;
  const int64_t first_place = static_cast<int64_t>(blockIdx.x) - number;
  int32_t earlier = 0;
  for (int64_t n = threadIdx.x; n <= number; n += kCollectThreads) {
    const Stretch stretch(p.sequences, tile.range, tile.s, n);
    const int32_t length = lists.length[first_place + n];
    const int32_t fresh = length - lists.older[first_place + n];
    if (length > stretch.capacity()) {
      earlier = kFewSelected + 1;
    } else if (n < number) {
      earlier = min(earlier + fresh, kFewSelected + 1);
    }
  }
  earlier = count(earlier).all;
  const Stretch stretch(p.sequences, tile.range, tile.s, number);
  const int32_t older = lists.older[blockIdx.x];
  const int32_t fresh = lists.length[blockIdx.x] - older;
  if (threadIdx.x == 0 && number + 1 == stretches) {
    const int64_t s = p.sequences.packed() ? key_row * p.sequences.count() + tile.s : key_row;
    lists.selected_count[s] = earlier > kFewSelected ? earlier : earlier + fresh;
  }
  if (earlier > kFewSelected || earlier + fresh > kFewSelected) return;
  const SelectedKey* from = list_of(lists, p.sequences, tile.range, stretch, key_row) + older;
  SelectedKey* to = lists.selected + key_row * p.sequences.length + tile.range.begin + earlier;
  for (int32_t i = threadIdx.x; i < fresh; i += kCollectThreads) to[i] = from[i];
}

// Short sequences: the order of the queries, the ranks of the keys and the few selected ones. A block takes a sequence
// and a head, first of the queries, then of the keys.
__global__ void __launch_bounds__(kShortThreads)
    short_kernel(const __grid_constant__ Problem p, const CudaIndices indices,
                 const CudaLists lists) {
  constexpr int kItems = static_cast<int>(kDenseLength) / kShortThreads;
  __shared__ int32_t counts[kDenseLength + kShortThreads];
  __shared__ BlockCount<kShortThreads> count;
  const auto heads = static_cast<uint32_t>(p.q_heads + p.k_heads);
  const int64_t s = blockIdx.x / heads;
  const Sequences::Range range = p.sequences.range(s);
  const int64_t head = blockIdx.x % heads;
  const auto length = static_cast<int32_t>(range.length);
  if (length <= 0 || length > kDenseLength) return;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int64_t total = p.sequences.length;

  if (head < p.q_heads) {
    for (int32_t i = thread; i <= length; i += kShortThreads) counts[i] = 0;
    __syncthreads();
    int32_t ends[kItems], places[kItems];
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int32_t i = k * kShortThreads + thread;
      if (i >= length) continue;
      ends[k] = read_query(p.pattern, range, i, head).end;
      places[k] = atomicAdd(&counts[ends[k]], 1);
    }
    __syncthreads();
    // Each thread adds up neighbours.
    constexpr int kNeighbours = kItems + 1;
    const int32_t first = thread * kNeighbours;
    int32_t sum = 0;
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) sum += first + k <= length ? counts[first + k] : 0;
    int32_t before = count(sum).before;
#pragma unroll
    for (int k = 0; k < kNeighbours; ++k) {
      if (first + k > length) break;
      const int32_t own = counts[first + k];
      counts[first + k] = before;
      before += own;
    }
    __syncthreads();
    int32_t* const order =
        indices.query_order + (range.row * p.q_heads + head) * total + range.begin;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const int32_t i = k * kShortThreads + thread;
      if (i < length) order[counts[ends[k]] + places[k]] = i;
    }
    return;
  }

  const int64_t k_head = head - p.q_heads;
  const int64_t key_row = range.row * p.k_heads + k_head;
  const PatternView view(p.pattern, range, k_head);
  SelectedKey* const selected =
      lists.selected ? lists.selected + key_row * total + range.begin : nullptr;
  int32_t found = 0;
#pragma unroll
  for (int k = 0; k < kItems; ++k) {
    const int32_t j = k * kShortThreads + thread;
    if (j < length) indices.key_rank[key_row * total + range.begin + view.ordered(j)] = j;
    if (!selected) continue;
    const uint32_t life = j < length ? view.life(j) : 0;
    const auto keys = count(life > 0 ? 1 : 0);
    if (life > 0) selected[found + keys.before] = {j, static_cast<int32_t>(j + life)};
    found += keys.all;
  }
  if (selected && thread == 0) {
    lists.selected_count[p.sequences.packed() ? key_row * p.sequences.count() + s : key_row] =
        found;
  }
}

}  // namespace hax::sparse_attention
