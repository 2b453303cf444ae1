// What plan, launches and kernels of backward on CUDA share.
#pragma once

#include "attention/sparse_attention/sparse_attention_cuda.hpp"

namespace hax::sparse_attention {

// Sequences up to this length meet all their keys in tiles that test every pair; the first where the kernel for
// activations of 16 bits takes the widths. Forward has a limit of its own.
inline constexpr int64_t kDenseTilesLength = 2048, kBackwardDenseLength = 512;
// Packed rows of up to so many tokens, which hold many short sequences as a rule, need no other kernel either. One
// sequence that fills such a row takes about four times as long as it could.
inline constexpr int64_t kDensePackedLength = 40960;
// Widths that it takes.
inline constexpr int64_t kDenseTilesWidth = 128;
// Width of d_qk up to which there are registers for dk, dv and dq of a tile at once.
inline constexpr int64_t kStretchWidth = 64;

// What a key's gradient is made of beside LSH's part, when it isn't the first of its rows.
inline constexpr int32_t kNoRows = -1;  // nothing
inline constexpr int32_t kDirect = -2;  // one sum over all its queries

// A key's span is the stretch of queries [j, j + span) that attend it apart from LSH. Long spans are cut at multiples
// of 2^stretch_log2 queries; each stretch adds its share to a row of its own, and the rows are added in order. Keys
// whose spans are short, and keys for which no rows are left, are summed in one go ("direct").
struct CudaBackwardPlan {
  CudaIndices indices;
  float* delta = nullptr;             // (B Hq, L): sum over d of o d_o, less dlse
  int32_t* sorted_queries = nullptr;  // (B Hq, L): query_order with each bin sorted
  // Spans, for sequences longer than dense_length:
  int32_t* chunk_reach = nullptr;  // (B Hk, places(kChunkKeys)): where the chunk's last span ends
  int32_t* first_row = nullptr;    // (B Hk, L): a key's first row, kNoRows or kDirect
  // (B Hk, places(2^stretch_log2)): whether the stretch is left to the kernels for lists; null: all are.
  int32_t* apart = nullptr;
  int32_t* direct_keys = nullptr;   // (B Hk, L): ascending, at the sequence's stretch of the L axis
  int32_t* direct_count = nullptr;  // (sequences, Hk)
  float* rows = nullptr;            // (B Hk, row_count, row_width): dk, then from v_column on dv
  int64_t row_count = 0, row_width = 0, v_column = 0;
  int stretch_log2 = 0;       // of queries
  int64_t query_stretch = 0;  // queries that a block of dq takes with one list of keys
  int64_t short_span = 0;     // up to here a key is direct
  CudaPath path = {};
  int64_t dense_length = 0;   // longest sequence whose pairs are all tried
  bool dense_tiles = false;   // by the kernel for 16 bits
  bool one_interval = false;  // keys are neighbours, alike for all queries
  bool spans = false;         // path.sparse, and keys' spans differ
};

}  // namespace hax::sparse_attention
