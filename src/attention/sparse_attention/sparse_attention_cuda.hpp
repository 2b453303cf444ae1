// What plan, launches and kernels of the CUDA backend share: tiles of sequences, and the indices that forward
// and backward prepare from the pattern's tensors in the same way.
#pragma once

#include "core/tensor.hpp"

namespace hax::sparse_attention {

// Sequences up to this length meet all their keys in dense tiles, with no order of the queries and no lists.
inline constexpr int64_t kDenseLength = 2048;

// Queries of a thread block.
inline constexpr int kTileTokens = 64;

// A window alone of up to so many keys has a kernel of its own.
inline constexpr int kBandWindow = 64;

// Tiles of `size` tokens, counted from each sequence's start. A row of the batch has the same number of places
// for tiles whatever cu_seqlens holds; sequence s begins at place begin / size + s, and some places stay empty.
struct Tiling {
  int64_t size;

  HAX_EVERYWHERE int64_t places(const Sequences& sequences) const {  // of one row
    return sequences.packed() ? sequences.length / size + sequences.count()
                              : (sequences.length + size - 1) / size;
  }
  HAX_EVERYWHERE int64_t first_place(const Sequences& sequences, int64_t s, int64_t begin) const {
    return sequences.packed() ? begin / size + s : 0;
  }
};

// One tile: tokens [first, last) of a sequence; none where the place is empty.
struct TileRange {
  Sequences::Range range;  // the sequence, on the L axis
  int64_t s;               // its number; without cu_seqlens that of the row
  int64_t first, last;     // counted from the sequence's start
};

// The tile at a place of the row, which sequence s holds.
HAX_EVERYWHERE TileRange tile_of(const Sequences& sequences, Tiling tiling, int64_t s,
                                 int64_t place) {
  TileRange tile{sequences.range(s), s, 0, 0};
  const int64_t at = (place - tiling.first_place(sequences, s, tile.range.begin)) * tiling.size;
  if (at >= tile.range.length) return tile;
  tile.first = at;
  tile.last = at + tiling.size < tile.range.length ? at + tiling.size : tile.range.length;
  return tile;
}

HAX_EVERYWHERE TileRange find_tile(const Sequences& sequences, Tiling tiling, int64_t row,
                                   int64_t place) {
  int64_t s = row;
  if (sequences.packed()) {
    int64_t low = 0, high = sequences.count() - 1;
    while (low < high) {  // the last sequence that begins at or before the place
      const int64_t middle = (low + high + 1) / 2;
      if (tiling.first_place(sequences, middle, sequences.boundary(middle)) <= place) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    s = low;
  }
  return tile_of(sequences, tiling, s, place);
}

// Queries are brought into the order of the keys they look up: by `end`, in bins of so many values.
inline constexpr int64_t kBinEnds = 16;
// Key selection: the keys of so many neighbours share one latest eviction, ...
inline constexpr int64_t kChunkKeys = 256;
// ... and so many queries one list of keys; the last stretch of a sequence is longer rather than shorter.
inline constexpr int64_t kListQueries = 2048;
static_assert(kListQueries >= kDenseLength);  // shorter sequences have no lists
// A list has room for so many keys a query.
inline constexpr int64_t kListKeysPerQuery = 2;
// Sequences with at most so many selected keys in all meet them in the order of the LSH ranges too.
inline constexpr int32_t kFewSelected = 1024;

// A key that is ever selected.
struct alignas(8) SelectedKey {
  int32_t key;       // counted from the sequence's start
  int32_t eviction;  // > key
};

// A query of a short sequence, counted from the sequence's start, and the keys that it looks up.
struct alignas(16) OrderedQuery {
  int32_t position, begin, end;
};

// Pieces of the workspace; null where the pattern or the lengths don't need them. Rows of the arrays belong to
// (b, head), b * heads + head.
struct CudaIndices {
  // LSH. (B Hq, places(kBinEnds) + 1): where in query_order the queries of each bin begin, counted from the row's
  // first token; the last one is L.
  int32_t* bin_begin = nullptr;
  // LSH. (B Hq, L): queries of each sequence by bin of their `end`, in any order within a bin. Counted from the
  // sequence's start, at the sequence's own stretch of the L axis.
  int32_t* query_order = nullptr;
  // LSH. (B Hk, L): inverse of key_order, likewise. Not written where key_order isn't a permutation.
  int32_t* key_rank = nullptr;
  // LSH. (B Hq): the most keys of any range, max(end - begin).
  int32_t* longest_range = nullptr;
  // Any. (B Hq, L): during preparation the query's place within its bin; afterwards free.
  int32_t* per_query = nullptr;
};

// Forward's lists, of selected keys above all.
struct CudaLists {
  // LSH and key selection. (B Hq, L): queries of short sequences in the order of `end`, each sequence's in its own
  // stretch of the L axis.
  OrderedQuery* short_queries = nullptr;
  // (B Hk, places(kChunkKeys)): the latest eviction in the chunk of those keys that were ever selected, otherwise 0.
  int32_t* chunk_eviction = nullptr;
  int32_t* chunk_count = nullptr;  // likewise: how many these are
  // (B Hk, places(kListQueries)): keys of the stretch's list; above its capacity the list is incomplete and must not
  // be used.
  int32_t* length = nullptr;
  // (B Hk, kListKeysPerQuery L): the lists, each in its stretch's part: keys that some query of the stretch attends by
  // key selection, counted from the sequence's start. They ascend.
  int32_t* lists = nullptr;
  // (B Hk, sequences): how many keys are ever selected; above kFewSelected it may be any such number.
  int32_t* selected_count = nullptr;
  // (B Hk, few_length()): all of them where they are few or the sequence is short, from few_begin() on. Sorted by
  // eviction, so that queries of one time find theirs close together; by position where they aren't few.
  SelectedKey* selected = nullptr;

  HAX_EVERYWHERE static int64_t few_length(const Sequences& sequences) {
    return sequences.packed() || sequences.length <= kDenseLength ? sequences.length : kFewSelected;
  }
  HAX_EVERYWHERE SelectedKey* few_begin(const Sequences& sequences, const Sequences::Range& range,
                                        int64_t key_row) const {
    return selected + key_row * few_length(sequences) + range.begin;
  }
};

// What a call prepares, by the pattern and by shapes.
struct CudaPath {
  bool lsh;     // looks up keys by LSH
  bool select;  // attends by key selection
  bool others;  // attends by more than LSH
  bool hax;     // by LSH and key selection, and nothing else
  bool dense;   // some sequence may be short enough for dense tiles
  bool sparse;  // some may be too long
};

struct CudaForwardPlan {
  CudaPath path;
  CudaIndices indices;
  CudaLists lists;
  bool vectors_q, vectors_k, vectors_v, vectors_o;  // rows move 16 bytes at a time
};

}  // namespace hax::sparse_attention
