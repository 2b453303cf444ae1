#include "model/item_batch.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "data/dataset_error.hpp"
#include "model/error.hpp"

namespace joint_recall {
namespace {

// A token id beyond the vocabulary would index past the embedding.
void check_tokens(const Split& split) {
  const std::span<const std::byte> bytes = split.token_data();
  int largest = 0;
  if (split.vocabulary().token_bytes() == 1) {
    for (const std::byte token : bytes) largest = std::max(largest, std::to_integer<int>(token));
  } else {
    const auto* tokens = reinterpret_cast<const uint16_t*>(bytes.data());
    for (size_t i = 0; i < bytes.size() / 2; ++i) largest = std::max(largest, int{tokens[i]});
  }
  if (largest < split.vocabulary().size()) return;
  throw DatasetError(fmt::format("{} is corrupt: it has token {}, but ids end at {}",
                                 split.source(), largest, split.vocabulary().size() - 1));
}

}  // namespace

ResidentSplit::ResidentSplit(std::shared_ptr<Backend> backend, const Split& split)
    : backend_(std::move(backend)), split_(split), tokens_(split.token_data().data()) {
  check_tokens(split);
  if (backend_->device().type == HAX_DEVICE_CPU) return;
  const std::span<const std::byte> bytes = split.token_data();
  copy_ = backend_->allocate(bytes.size());
  backend_->copy_in(copy_, bytes.data(), bytes.size());
  tokens_ = copy_;
}

ResidentSplit::~ResidentSplit() {
  if (copy_ != nullptr) backend_->release(copy_);
}

int64_t ItemBatch::asked() const {
  int64_t sum = 0;
  for (const int64_t item : index) sum += source->split().order().shape(item).asked_count();
  return sum;
}

void check_batch(const ItemBatch& batch, int64_t vocab_size) {
  const int tokens = batch.source->split().vocabulary().size();
  if (tokens <= vocab_size) return;
  throw ModelError(fmt::format("batch: expected at most {} token ids, got {}", vocab_size, tokens));
}

}  // namespace joint_recall
