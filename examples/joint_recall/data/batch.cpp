#include "data/batch.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "data/dataset_error.hpp"

namespace joint_recall {
namespace {

constexpr std::int64_t kMaxRows = std::numeric_limits<std::int32_t>::max();

// Copies tokens [begin, begin + out.size()); a corrupt file must not lead to a token id beyond the
// vocabulary, which would index past the embedding.
void copy_checked(const Split& split, std::int64_t index, const Item& item, int begin,
                  std::span<std::int32_t> out) {
  item.copy_tokens(begin, out);
  const std::int32_t largest = *std::max_element(out.begin(), out.end());
  if (largest >= split.vocabulary().size()) {
    throw DatasetError(fmt::format("{} is corrupt: item {} has token {}, but ids end at {}",
                                   split.source(), index, largest, split.vocabulary().size() - 1));
  }
}

void clear(AskedTokens& asked) {
  asked.positions.clear();
  asked.targets.clear();
  asked.offsets.assign(1, 0);
}

void add_asked(const ItemShape& shape, std::int32_t first_row,
               const std::vector<std::int32_t>& targets, AskedTokens& asked) {
  for (int ask = 0; ask < shape.asked_count(); ++ask) {
    const std::int32_t row = first_row + shape.asked_position(ask);
    asked.positions.push_back(row);
    asked.targets.push_back(targets[static_cast<std::size_t>(row)]);
  }
  asked.offsets.push_back(static_cast<std::int32_t>(asked.positions.size()));
}

}  // namespace

BatchIterator::BatchIterator(const Split& split, std::int64_t batch_size, Repeat repeat,
                             BatchPart part)
    : split_(split), batch_size_(batch_size), part_(part), repeat_(repeat) {
  if (split_.size() == 0) throw DatasetError(split_.source() + " has no items to make batches of");
  const std::int64_t most = kMaxRows / split_.padded_length();
  if (batch_size < 1 || batch_size > most) {
    throw DatasetError(
        fmt::format("the batch size must be between 1 and {}, but it is {}", most, batch_size));
  }
  if (batch_size % part.count != 0) {
    throw DatasetError(fmt::format("a batch of {} items can't be shared out evenly among {} ranks",
                                   batch_size, part.count));
  }
}

std::int64_t BatchIterator::batches_per_pass() const {
  return (split_.size() + batch_size_ - 1) / batch_size_;
}

std::int64_t BatchIterator::batch_items(std::int64_t step) const {
  const std::int64_t last =
      repeat_ == Repeat::kOnce ? batches_per_pass() - 1 : std::numeric_limits<std::int64_t>::max();
  if (step < 0 || step > last) {
    throw DatasetError(
        fmt::format("{} has batches 0 to {}; there is no batch {}", split_.source(), last, step));
  }
  if (repeat_ == Repeat::kForever) return batch_size_ / part_.count;
  return std::min(batch_size_, split_.size() - step * batch_size_);
}

std::int64_t BatchIterator::item_index(std::int64_t step, std::int64_t i) const {
  // step * batch_size itself may overflow in a run without end.
  const std::int64_t first = part_.index * (batch_size_ / part_.count);
  return (step % split_.size() * batch_size_ + first + i) % split_.size();
}

BatchShare BatchIterator::share(std::int64_t step) const {
  BatchShare share;
  if (part_.count == 1) return share;
  const std::int64_t items = batch_items(step);
  std::int64_t own = 0, all = 0;
  share.items_before = part_.index * items;
  for (std::int64_t i = 0; i < batch_size_; ++i) {
    const Item item = split_[item_index(step, i - share.items_before)];
    const bool before = i < share.items_before, mine = !before && i < share.items_before + items;
    if (before) share.inputs_before += item.size() - 1;
    if (mine) own += item.shape().asked_count();
    all += item.shape().asked_count();
  }
  share.asked = static_cast<double>(own) / static_cast<double>(all);
  return share;
}

void BatchIterator::fill(std::int64_t step, PackedBatch& batch) const {
  const std::int64_t items = batch_items(step);
  std::int64_t rows = 0;
  for (std::int64_t i = 0; i < items; ++i) rows += split_[item_index(step, i)].size() - 1;
  batch.inputs.resize(static_cast<std::size_t>(rows));
  batch.targets.resize(static_cast<std::size_t>(rows));
  batch.cu_seqlens.assign(1, 0);
  clear(batch.asked);
  for (std::int64_t i = 0; i < items; ++i) {
    const std::int64_t index = item_index(step, i);
    const Item item = split_[index];
    const std::int32_t first_row = batch.cu_seqlens.back();
    const auto count = static_cast<std::size_t>(item.size()) - 1;
    copy_checked(split_, index, item, 0, std::span(batch.inputs).subspan(first_row, count));
    copy_checked(split_, index, item, 1, std::span(batch.targets).subspan(first_row, count));
    add_asked(item.shape(), first_row, batch.targets, batch.asked);
    batch.cu_seqlens.push_back(first_row + static_cast<std::int32_t>(count));
  }
}

void BatchIterator::fill(std::int64_t step, PaddedBatch& batch) const {
  const std::int64_t items = batch_items(step);
  batch.length = split_.padded_length() - 1;
  const auto rows = static_cast<std::size_t>(items * batch.length);
  batch.inputs.assign(rows, kPaddingToken);
  batch.targets.assign(rows, kPaddingToken);
  batch.attention_mask.assign(rows, 0);
  clear(batch.asked);
  for (std::int64_t i = 0; i < items; ++i) {
    const std::int64_t index = item_index(step, i);
    const Item item = split_[index];
    const auto first_row = static_cast<std::size_t>(i * batch.length);
    const auto size = static_cast<std::size_t>(item.size());
    const std::size_t seen = std::min(size, static_cast<std::size_t>(batch.length));
    copy_checked(split_, index, item, 0, std::span(batch.inputs).subspan(first_row, seen));
    copy_checked(split_, index, item, 1, std::span(batch.targets).subspan(first_row, size - 1));
    std::ranges::fill(std::span(batch.attention_mask).subspan(first_row, seen), std::uint8_t{1});
    add_asked(item.shape(), static_cast<std::int32_t>(first_row), batch.targets, batch.asked);
  }
}

}  // namespace joint_recall
