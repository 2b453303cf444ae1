#pragma once

#include <cstdint>
#include <vector>

#include "data/dataset.hpp"

namespace joint_recall {

// What both forms of a batch ask: predict asked_targets[j] from the output at flat row
// asked_positions[j]. Item i owns the entries [asked_offsets[i], asked_offsets[i + 1]).
struct AskedTokens {
  std::vector<std::int32_t> positions;
  std::vector<std::int32_t> targets;
  std::vector<std::int32_t> offsets;
};

// The items one after the other, each without its last token: item i is the rows
// [cu_seqlens[i], cu_seqlens[i + 1]).
struct PackedBatch {
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> targets;  // the next token of each row
  std::vector<std::int32_t> cu_seqlens;
  AskedTokens asked;

  int items() const { return static_cast<int>(cu_seqlens.size()) - 1; }
  int rows() const { return static_cast<int>(inputs.size()); }
};

// The items as the official code batches them: each on the left of a line of padded_length columns, of
// which inputs are all but the last and targets all but the first. An item shorter than a line thus keeps
// its last token as an input, which the packed form drops. The rest of a line holds kPaddingToken, and 0
// in attention_mask.
struct PaddedBatch {
  int length = 0;
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> targets;
  std::vector<std::uint8_t> attention_mask;
  AskedTokens asked;

  int items() const { return length == 0 ? 0 : static_cast<int>(inputs.size()) / length; }
  int rows() const { return static_cast<int>(inputs.size()); }
};

enum class Repeat {
  kForever,  // the items again and again in file order, every batch full: for training
  kOnce,     // each item once, the last batch as short as it must be: for evaluation
};

// One of `count` equal parts of every batch: that of a rank.
struct BatchPart {
  std::int64_t index = 0;
  std::int64_t count = 1;
};

// What a part of a batch is of the whole.
struct BatchShare {
  double asked = 1.0;  // share of the asked positions
  std::int64_t items_before = 0;
  std::int64_t inputs_before = 0;  // rows of these items in a packed batch
};

// Batches by number, without state: batch `step` depends on nothing but the split, the batch size
// and `step`, so a run resumes at any step. The fill functions reuse the vectors' memory.
class BatchIterator {
 public:
  // batch_size: of all parts together, which must divide it.
  BatchIterator(const Split& split, std::int64_t batch_size, Repeat repeat, BatchPart part = {});

  // Batches of one pass, a short last one included.
  std::int64_t batches_per_pass() const;
  // Items of batch `step`, and the index of its i-th item in the split.
  std::int64_t batch_items(std::int64_t step) const;
  std::int64_t item_index(std::int64_t step, std::int64_t i) const;

  BatchShare share(std::int64_t step) const;

  void fill(std::int64_t step, PackedBatch& batch) const;
  void fill(std::int64_t step, PaddedBatch& batch) const;

 private:
  Split split_;
  std::int64_t batch_size_;
  BatchPart part_;
  Repeat repeat_;
};

}  // namespace joint_recall
