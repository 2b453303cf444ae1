#include "model/arena.hpp"

#include <algorithm>

namespace joint_recall {
namespace {

constexpr size_t kAlignment = 256;
constexpr int64_t kRowAlignment = 8;  // elements of bf16
constexpr size_t kLeastBlock = size_t{8} << 20;

}  // namespace

Arena::~Arena() {
  for (const Line& line : lines_) {
    for (const Block& block : line.blocks) backend_.release(block.memory);
  }
}

size_t Arena::Line::in_use() const {
  size_t sum = used;
  for (size_t b = 0; b < block; ++b) sum += blocks[b].size;
  return sum;
}

void* Arena::take_bytes(size_t bytes) {
  Line& line = *line_;
  bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  // A later block may be left from before a scope's end and be too small: pass it over.
  while (line.block < line.blocks.size() && line.used + bytes > line.blocks[line.block].size) {
    ++line.block;
    line.used = 0;
  }
  if (line.block == line.blocks.size()) {
    const size_t size = std::max(bytes, kLeastBlock);
    line.blocks.push_back({static_cast<char*>(backend_.allocate(size)), size});
  }
  void* memory = line.blocks[line.block].memory + line.used;
  line.used += bytes;
  line.peak = std::max(line.peak, line.in_use());
  return memory;
}

Tokens Arena::tokens(int64_t rows, int64_t columns) {
  const Element element = backend_.activations();
  const int64_t stride = element == Element::kBf16
                             ? (columns + kRowAlignment - 1) / kRowAlignment * kRowAlignment
                             : columns;
  void* memory = take_bytes(static_cast<size_t>(rows * stride * bytes_of(element)));
  return {memory, rows, columns, stride, element};
}

void Arena::reset() {
  for (Line& line : lines_) {
    line.block = line.used = 0;
    if (line.blocks.size() < 2) continue;
    for (const Block& block : line.blocks) backend_.release(block.memory);
    line.blocks.clear();
    line.blocks.push_back({static_cast<char*>(backend_.allocate(line.peak)), line.peak});
  }
}

size_t Arena::bytes() const {
  size_t sum = 0;
  for (const Line& line : lines_) {
    for (const Block& block : line.blocks) sum += block.size;
  }
  return sum;
}

}  // namespace joint_recall
