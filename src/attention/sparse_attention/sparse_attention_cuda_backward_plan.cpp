// Backward on a GPU: its workspace, and how long sequences are cut.
#include <algorithm>
#include <bit>

#include "attention/sparse_attention/sparse_attention.hpp"
#include "core/integer.hpp"

namespace hax::sparse_attention {
namespace {

// Bytes of rows for a token and key head: what leaves 40 with the indices. Small problems get kFewestRows.
constexpr int64_t kRowBytes = 18, kRowBytesWithoutLsh = 28;
constexpr int64_t kFewestRows = 49152;
// Blocks that the stretches should at least make; a stretch has so many queries.
constexpr int64_t kEnoughBlocks = 1024;
constexpr int64_t kShortestStretch = 256, kLongestStretch = 2048, kLongestQueryStretch = 512;

int64_t stretch_of(int64_t tokens, int64_t longest) {
  return std::clamp(round_up(tokens / kEnoughBlocks, 64), kShortestStretch, longest);
}

int64_t dense_length_of(const BackwardParams& p, bool dense_tiles) {
  if (!dense_tiles) return kBackwardDenseLength;
  const bool short_row = p.sequences.packed() && p.sequences.length <= kDensePackedLength;
  return short_row ? kDensePackedLength : kDenseTilesLength;
}

void plan_spans(const BackwardParams& p, CudaBackwardPlan& plan, Workspace& workspace) {
  const Sequences& sequences = p.sequences;
  const int64_t length = sequences.length, key_rows = sequences.batch * p.k_heads;
  plan.stretch_log2 = static_cast<int>(
      std::bit_width(static_cast<uint64_t>(stretch_of(key_rows * length, kLongestStretch))) - 1);
  const int64_t stretch = int64_t{1} << plan.stretch_log2;
  plan.query_stretch =
      std::min(stretch, static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(stretch_of(
                            sequences.batch * p.q_heads * length / 4, kLongestQueryStretch)))));
  if (plan.dense_tiles && p.d_qk <= kStretchWidth) {
    plan.apart = workspace.take<int32_t>(key_rows * Tiling{stretch}.places(sequences));
  }
  plan.short_span = p.pattern.window > 0 ? std::max<int64_t>(p.pattern.window, 256) : 0;
  plan.chunk_reach = workspace.take<int32_t>(key_rows * Tiling{kChunkKeys}.places(sequences));
  if (!p.dk && !p.dv) return;
  // Once the queries are sorted, their former order is free.
  plan.first_row = plan.path.lsh && p.q_heads > 0 ? plan.indices.query_order
                                                  : workspace.take<int32_t>(key_rows * length);
  plan.direct_keys = workspace.take<int32_t>(key_rows * length);
  plan.direct_count = workspace.take<int32_t>(sequences.count() * p.k_heads);
  plan.v_column = round_up(p.d_qk, 2);
  plan.row_width = plan.v_column + round_up(p.d_v, 2);
  const int64_t row_bytes = plan.path.lsh ? kRowBytes : kRowBytesWithoutLsh;
  const int64_t rows = std::max(length * row_bytes / (plan.row_width * 4),
                                kFewestRows / std::max<int64_t>(key_rows, 1));
  plan.row_count = std::min(rows, length);
  plan.rows = workspace.take<float>(key_rows * plan.row_count * plan.row_width);
}

}  // namespace

CudaBackwardPlan plan_cuda_backward(const BackwardParams& p, Workspace& workspace) {
  const int64_t query_tokens = p.sequences.batch * p.q_heads * p.sequences.length;
  const Pattern& pattern = p.pattern;
  CudaBackwardPlan plan;
  plan.path = choose_cuda_path(p);
  plan.one_interval = pattern.has(HAX_PATTERN_FULL) || pattern.bits == HAX_PATTERN_SLIDING_WINDOW;
  plan.dense_tiles = p.q.type != Type::fp32 && std::max(p.d_qk, p.d_v) <= kDenseTilesWidth;
  plan.dense_length = dense_length_of(p, plan.dense_tiles);
  plan.path.sparse = p.sequences.longest > plan.dense_length;
  plan.path.dense = !plan.one_interval && (p.sequences.packed() || !plan.path.sparse);
  plan.spans = plan.path.sparse && !plan.one_interval && plan.path.others;
  plan.path.select = false;  // its lists are forward's
  plan.indices = plan_cuda_indices(p, plan.path, workspace);
  // What forward needs only while it orders the queries.
  plan.sorted_queries = plan.indices.per_query;
  plan.delta = workspace.take<float>(query_tokens);
  if (plan.spans) plan_spans(p, plan, workspace);
  return plan;
}

}  // namespace hax::sparse_attention
