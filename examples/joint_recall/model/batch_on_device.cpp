#include "model/batch_on_device.hpp"

#include <algorithm>
#include <vector>

#include "data/vocabulary.hpp"

namespace joint_recall {
namespace {

// Batches of a data set then have few lengths: 9 with the paper's data and 64 items.
constexpr int64_t kTokenStep = 1024;
constexpr int64_t kAskedStep = 512;

int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// Gathers arrays on the host, so that one copy brings them all.
class Upload {
 public:
  // The values and `count - values.size()` times the filling.
  template <class T>
  size_t add(std::span<const T> values, int64_t count, T filling) {
    const size_t offset = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(offset + static_cast<size_t>(count) * sizeof(T));
    auto* target = reinterpret_cast<T*>(bytes_.data() + offset);
    std::fill(std::copy(values.begin(), values.end(), target), target + count, filling);
    return offset;
  }
  template <class T>
  size_t add(std::span<const T> values) {
    return add(values, static_cast<int64_t>(values.size()), T{});
  }

  void send(Pass& pass) {
    device_ = pass.arena.take<char>(static_cast<int64_t>(bytes_.size()));
    pass.backend.copy_in(device_, bytes_.data(), bytes_.size());
  }
  template <class T>
  const T* at(size_t offset) const {
    return reinterpret_cast<const T*>(device_ + offset);
  }

 private:
  static constexpr size_t kAlignment = 256;
  std::vector<char> bytes_;
  char* device_ = nullptr;
};

std::vector<int32_t> token_positions(const Pass& pass, std::span<const int32_t> cu_seqlens) {
  std::vector<int32_t> positions(static_cast<size_t>(pass.tokens()));
  size_t sequence = 0;
  for (size_t t = 0; t < positions.size(); ++t) {
    if (cu_seqlens.empty()) {
      positions[t] = static_cast<int32_t>(t % static_cast<size_t>(pass.length));
      continue;
    }
    while (static_cast<size_t>(cu_seqlens[sequence + 1]) <= t) ++sequence;
    positions[t] = static_cast<int32_t>(t) - cu_seqlens[sequence];
  }
  return positions;
}

void attach_numbers(const PassNumbers& numbers, BatchOnDevice& batch, Pass& pass) {
  pass.dgate_loss = &batch.numbers->dgate_loss;
  AskedTokensOnDevice& asked = batch.asked;
  if (numbers.loss_scale != 0.0f) asked.scale = &batch.numbers->loss_scale;
  asked.loss = pass.arena.take<float>(asked.count);
  asked.prediction = pass.arena.take<int32_t>(asked.count);
}

}  // namespace

BatchOnDevice upload_batch(const BatchView& batch, const PassNumbers& numbers, bool lengthen,
                           bool positions, Pass& pass) {
  const bool pad = batch.packed() && lengthen;
  pass.batch = batch.batch;
  // At least one token of padding, which padded askings can name.
  pass.length = pad ? round_up(batch.length + 1, kTokenStep) : batch.length;
  pass.items = batch.items();
  pass.sequences = pass.items + (pad ? 1 : 0);
  const auto asked_count = static_cast<int64_t>(batch.asked_positions.size());
  BatchOnDevice result;
  AskedTokensOnDevice& asked = result.asked;
  asked.count = pad ? round_up(asked_count, kAskedStep) : asked_count;

  Upload upload;
  const size_t numbers_at = upload.add(std::span(&numbers, 1));
  const size_t inputs =
      upload.add(batch.inputs, pass.tokens(), static_cast<int32_t>(kPaddingToken));
  std::vector<int32_t> cu_seqlens(batch.cu_seqlens.begin(), batch.cu_seqlens.end());
  if (pad) cu_seqlens.push_back(static_cast<int32_t>(pass.length));
  const size_t cu_seqlens_at = upload.add(std::span<const int32_t>(cu_seqlens));
  const size_t mask = upload.add(batch.attention_mask);
  const std::vector<int32_t> position =
      positions ? token_positions(pass, cu_seqlens) : std::vector<int32_t>{};
  const size_t position_at = upload.add(std::span<const int32_t>(position));
  // The gradient of padded askings is 0.
  const size_t asked_at =
      upload.add(batch.asked_positions, asked.count, static_cast<int32_t>(pass.tokens() - 1));
  const size_t targets = upload.add(batch.asked_targets, asked.count, -1);
  const size_t offsets = upload.add(batch.asked_offsets);
  upload.send(pass);

  result.numbers = upload.at<PassNumbers>(numbers_at);
  result.inputs = upload.at<int32_t>(inputs);
  if (batch.packed()) pass.cu_seqlens = upload.at<int32_t>(cu_seqlens_at);
  if (!batch.attention_mask.empty()) pass.attention_mask = upload.at<uint8_t>(mask);
  if (positions) pass.position = upload.at<int32_t>(position_at);
  asked.positions = upload.at<int32_t>(asked_at);
  asked.targets = upload.at<int32_t>(targets);
  asked.offsets = upload.at<int32_t>(offsets);
  attach_numbers(numbers, result, pass);
  return result;
}

BatchOnDevice upload_batch(const ItemBatch& batch, const PassNumbers& numbers, bool lengthen,
                           bool positions, Pass& pass) {
  const Split& split = batch.source->split();
  const int64_t line = split.padded_length() - 1;
  std::vector<BatchItem> items;
  std::vector<int32_t> cu_seqlens = {0}, offsets = {0};
  for (const int64_t index : batch.index) {
    const ItemShape shape = split.order().shape(index);
    const int64_t begin =
        batch.packing ? cu_seqlens.back() : line * static_cast<int64_t>(items.size());
    const int64_t seen =
        batch.packing ? shape.length() - 1 : std::min<int64_t>(shape.length(), line);
    items.push_back({.first_token = split.order().first_token(index),
                     .n_context = shape.n_context,
                     .n_key = shape.n_key,
                     .row = static_cast<int32_t>(begin),
                     .seen = static_cast<int32_t>(seen),
                     .asked = offsets.back()});
    cu_seqlens.push_back(static_cast<int32_t>(begin + seen));
    offsets.push_back(offsets.back() + shape.asked_count());
  }
  const int64_t asked_count = offsets.back();
  // One that holds nothing, for the search in an empty batch.
  if (items.empty()) items.emplace_back();
  const bool pad = batch.packing && lengthen;
  pass.items = batch.items();
  pass.sequences = pass.items + (pad ? 1 : 0);
  pass.batch = batch.packing ? 1 : pass.items;
  pass.length = !batch.packing ? line
                : pad          ? round_up(cu_seqlens.back() + 1, kTokenStep)
                               : cu_seqlens.back();
  if (pad) cu_seqlens.push_back(static_cast<int32_t>(pass.length));
  // The same for all batches of a data set, as recorded work has to be.
  if (batch.packing) pass.max_seqlen = std::max(line, pad ? kTokenStep : 0);

  BatchOnDevice result;
  AskedTokensOnDevice& asked = result.asked;
  asked.count = pad ? round_up(asked_count, kAskedStep) : asked_count;
  PassNumbers own = numbers;
  own.asked = asked_count;
  Upload upload;
  const size_t numbers_at = upload.add(std::span<const PassNumbers>(&own, 1));
  const size_t items_at = upload.add(std::span<const BatchItem>(items));
  const size_t cu_seqlens_at = upload.add(std::span<const int32_t>(cu_seqlens));
  const size_t offsets_at = upload.add(std::span<const int32_t>(offsets));
  upload.send(pass);

  result.numbers = upload.at<PassNumbers>(numbers_at);
  result.tokens = {.data = batch.source->tokens(),
                   .token_bytes = split.vocabulary().token_bytes(),
                   .items = upload.at<BatchItem>(items_at),
                   .count = static_cast<int64_t>(items.size()),
                   .asked = &result.numbers->asked};
  BatchArrays& arrays = result.arrays;
  arrays.rows = pass.tokens();
  arrays.asked = asked.count;
  arrays.inputs = pass.arena.take<int32_t>(arrays.rows);
  if (positions) arrays.position = pass.arena.take<int32_t>(arrays.rows);
  if (!batch.packing) arrays.mask = pass.arena.take<uint8_t>(arrays.rows);
  arrays.asked_positions = pass.arena.take<int32_t>(asked.count);
  arrays.asked_targets = pass.arena.take<int32_t>(asked.count);

  result.inputs = arrays.inputs;
  if (batch.packing) pass.cu_seqlens = upload.at<int32_t>(cu_seqlens_at);
  pass.attention_mask = arrays.mask;
  pass.position = arrays.position;
  asked.positions = arrays.asked_positions;
  asked.targets = arrays.asked_targets;
  asked.offsets = upload.at<int32_t>(offsets_at);
  attach_numbers(numbers, result, pass);
  return result;
}

}  // namespace joint_recall
