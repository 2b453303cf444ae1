#include "model/batch_view.hpp"

#include <fmt/format.h>

#include "model/error.hpp"

namespace joint_recall {
namespace {

void check_size(const char* field, size_t size, int64_t expected) {
  if (static_cast<int64_t>(size) != expected) {
    throw ModelError(fmt::format("batch.{}: expected {} entries, got {}", field, expected, size));
  }
}

void check_below(const char* field, std::span<const int32_t> values, int64_t limit) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= limit) {
      throw ModelError(
          fmt::format("batch.{}[{}]: expected 0..{}, got {}", field, i, limit - 1, values[i]));
    }
  }
}

void check_offsets(const char* field, std::span<const int32_t> offsets, int64_t items,
                   int64_t end) {
  check_size(field, offsets.size(), items + 1);
  if (offsets.front() != 0 || offsets.back() != end) {
    throw ModelError(fmt::format("batch.{}: expected 0 first and {} last, got {} and {}", field,
                                 end, offsets.front(), offsets.back()));
  }
  for (size_t s = 1; s < offsets.size(); ++s) {
    if (offsets[s] < offsets[s - 1]) {
      throw ModelError(fmt::format("batch.{}[{}]: expected at least {}, got {}", field, s,
                                   offsets[s - 1], offsets[s]));
    }
  }
}

}  // namespace

BatchView view_of(const PackedBatch& batch) {
  return {.batch = 1,
          .length = batch.rows(),
          .inputs = batch.inputs,
          .cu_seqlens = batch.cu_seqlens,
          .attention_mask = {},
          .asked_positions = batch.asked.positions,
          .asked_targets = batch.asked.targets,
          .asked_offsets = batch.asked.offsets};
}

BatchView view_of(const PaddedBatch& batch) {
  return {.batch = batch.items(),
          .length = batch.length,
          .inputs = batch.inputs,
          .cu_seqlens = {},
          .attention_mask = batch.attention_mask,
          .asked_positions = batch.asked.positions,
          .asked_targets = batch.asked.targets,
          .asked_offsets = batch.asked.offsets};
}

void check_batch(const BatchView& batch, int64_t vocab_size) {
  if (batch.batch < 0 || batch.length < 0 || batch.length > INT32_MAX || batch.batch > INT32_MAX ||
      batch.tokens() > INT32_MAX) {
    throw ModelError(fmt::format("batch: expected batch * length in 0..2^31 - 1, got {} * {}",
                                 batch.batch, batch.length));
  }
  check_size("inputs", batch.inputs.size(), batch.tokens());
  check_below("inputs", batch.inputs, vocab_size);
  if (batch.packed()) {
    if (batch.batch != 1) {
      throw ModelError(fmt::format("batch.batch: expected 1 with cu_seqlens, got {}", batch.batch));
    }
    if (!batch.attention_mask.empty()) {
      throw ModelError("batch.attention_mask: expected none with cu_seqlens");
    }
    check_offsets("cu_seqlens", batch.cu_seqlens, batch.items(), batch.length);
  } else if (!batch.attention_mask.empty()) {
    check_size("attention_mask", batch.attention_mask.size(), batch.tokens());
  }
  const auto asked = static_cast<int64_t>(batch.asked_positions.size());
  check_below("asked_positions", batch.asked_positions, batch.tokens());
  check_size("asked_targets", batch.asked_targets.size(), asked);
  check_below("asked_targets", batch.asked_targets, vocab_size);
  check_offsets("asked_offsets", batch.asked_offsets, batch.items(), asked);
}

}  // namespace joint_recall
