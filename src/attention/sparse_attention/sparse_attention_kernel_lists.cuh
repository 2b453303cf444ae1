// Preparation of forward's lists of selected keys, and of everything for short sequences.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_pattern.cuh"

namespace hax::sparse_attention {

inline constexpr int kChunkThreads = 256;
inline constexpr int kListThreads = 1024;
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
  SelectedKey* const list = list_of(lists, p.sequences, tile.range, stretch, key_row);
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
        if ((votes[k] >> lane & 1) && at < capacity) {
          const int32_t j = begin + k * 32 + lane;
          list[at] = {j, static_cast<int32_t>(j + life[k])};
        }
        to += __popc(votes[k]);
      }
      length += keys.all;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) lists.length[blockIdx.x] = length;
}

// Sorts at most kFewSelected keys, which ascend in shared memory, by eviction. All threads of a block call it.
__device__ inline void store_sorted(SelectedKey* to, const SelectedKey* shared, int32_t count) {
  for (int32_t i = threadIdx.x; i < count; i += blockDim.x) {
    const SelectedKey mine = shared[i];
    int32_t place = 0;
    for (int32_t k = 0; k < count; ++k) {
      const int32_t eviction = shared[k].eviction;
      place += (eviction < mine.eviction) | ((eviction == mine.eviction) & (k < i));
    }
    to[place] = mine;
  }
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
  store_sorted(lists.selected + key_row * p.sequences.length + range.begin, selected, all);
}

// Short sequences: the order of the queries, the ranks of the keys and the few selected ones. A block takes a sequence
// and a head, first of the queries, then of the keys.
__global__ void __launch_bounds__(kShortThreads)
    short_kernel(const __grid_constant__ Problem p, const CudaIndices indices,
                 const CudaLists lists) {
  constexpr int kItems = static_cast<int>(kDenseLength) / kShortThreads;
  __shared__ int32_t counts[kDenseLength + kShortThreads];
  __shared__ BlockCount<kShortThreads> count;
  __shared__ SelectedKey shared[kFewSelected];
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
    if (life > 0 && found + keys.before < kFewSelected) {
      shared[found + keys.before] = {j, static_cast<int32_t>(j + life)};
    }
    found += keys.all;
  }
  if (!selected) return;
  if (thread == 0) {
    lists.selected_count[p.sequences.packed() ? key_row * p.sequences.count() + s : key_row] =
        found;
  }
  __syncthreads();
  if (found <= kFewSelected) store_sorted(selected, shared, found);
}

}  // namespace hax::sparse_attention
