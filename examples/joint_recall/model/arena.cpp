#include "model/arena.hpp"

#include <algorithm>

namespace joint_recall {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

Arena::~Arena() {
  for (const Block& block : blocks_) backend_.release(block.memory);
}

size_t Arena::in_use() const {
  size_t sum = used_;
  for (size_t b = 0; b < block_; ++b) sum += blocks_[b].size;
  return sum;
}

void* Arena::take_bytes(size_t bytes) {
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  // A later block may be left from before a scope's end and be too small: pass it over.
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    const size_t size =
        std::max<size_t>(bytes, blocks_.empty() ? 1 << 20 : 2 * blocks_.back().size);
    blocks_.push_back({static_cast<char*>(backend_.allocate(size)), size});
  }
  void* memory = blocks_[block_].memory + used_;
  used_ += bytes;
  peak_ = std::max(peak_, in_use());
  return memory;
}

void Arena::reset() {
  block_ = used_ = 0;
  if (blocks_.size() < 2) return;
  for (const Block& block : blocks_) backend_.release(block.memory);
  blocks_.clear();
  blocks_.push_back({static_cast<char*>(backend_.allocate(peak_)), peak_});
}

size_t Arena::bytes() const {
  size_t sum = 0;
  for (const Block& block : blocks_) sum += block.size;
  return sum;
}

}  // namespace joint_recall
