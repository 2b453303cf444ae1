// One batch as the model reads it: borrowed host memory.
#pragma once

#include <cstdint>
#include <span>

#include "data/batch.hpp"

namespace joint_recall {

// Tokens lie row after row. Padded: `batch` rows of `length` tokens, one item each, padding on the
// right. Packed: one row that holds all items end to end.
struct BatchView {
  int64_t batch = 0;                    // rows; 1 when packed
  int64_t length = 0;                   // tokens a row
  std::span<const int32_t> inputs;      // batch * length token ids
  std::span<const int32_t> cu_seqlens;  // packed: items + 1 offsets from 0 to length; else empty
  std::span<const uint8_t> attention_mask;  // padded: batch * length, 1 = real token; else empty,
                                            // as it may be where no token is padding
  // asked_targets[j] is to be predicted at token asked_positions[j], counted over the whole batch;
  // item i owns the entries [asked_offsets[i], asked_offsets[i + 1]).
  std::span<const int32_t> asked_positions;
  std::span<const int32_t> asked_targets;
  std::span<const int32_t> asked_offsets;  // items + 1

  bool packed() const { return !cu_seqlens.empty(); }
  int64_t tokens() const { return batch * length; }
  int64_t asked() const { return static_cast<int64_t>(asked_positions.size()); }
  int64_t items() const { return packed() ? static_cast<int64_t>(cu_seqlens.size()) - 1 : batch; }
};

// The view borrows the batch's vectors.
BatchView view_of(const PackedBatch& batch);
BatchView view_of(const PaddedBatch& batch);

// Throws ModelError naming the field that contradicts the others or holds a token out of [0, vocab).
void check_batch(const BatchView& batch, int64_t vocab_size);

}  // namespace joint_recall
