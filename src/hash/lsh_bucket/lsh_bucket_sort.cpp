#include <algorithm>
#include <utility>

#include "core/parallel.hpp"
#include "hash/lsh_bucket/lsh_bucket.hpp"

namespace hax::lsh_bucket {
namespace {

constexpr int64_t kTinyCount = 64;  // up to here comparing beats counting

struct Digit {
  int shift;
  uint64_t mask;

  uint64_t operator()(const Item& item) const { return item.code >> shift & mask; }
};

// Turns the tiles' counts of each digit value into the places of each tile's first such item. False:
// all items have one value, and there's nothing to move.
bool counts_to_places(uint32_t* histograms, int64_t tiles, int64_t count) {
  uint32_t place = 0;
  for (int value = 0; value < kDigitValues; ++value) {
    const uint32_t before = place;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      place += std::exchange(histograms[tile * kDigitValues + value], place);
    }
    if (place - before == static_cast<uint32_t>(count)) return false;
  }
  return true;
}

}  // namespace

Item* sort_by_code(Item* items, Item* spare, int64_t count, int num_bits, uint32_t* histograms,
                   int num_threads) {
  if (count <= kTinyCount) {
    std::sort(items, items + count, [](const Item& a, const Item& b) {
      return std::pair(a.code, a.position) < std::pair(b.code, b.position);
    });
    return items;
  }
  const int64_t tiles = ceil_div(count, kTileItems);
  const int digits = (num_bits + kDigitBits - 1) / kDigitBits;
  const int width = (num_bits + digits - 1) / digits;
  for (int shift = 0; shift < num_bits; shift += width) {
    const Digit digit{shift, (uint64_t{1} << width) - 1};
    parallel_for(num_threads, tiles, [&](int64_t tile, int) {
      uint32_t* counts = histograms + tile * kDigitValues;
      std::fill_n(counts, kDigitValues, 0u);
      const int64_t end = std::min(count, (tile + 1) * kTileItems);
      for (int64_t i = tile * kTileItems; i < end; ++i) ++counts[digit(items[i])];
    });
    if (!counts_to_places(histograms, tiles, count)) continue;
    parallel_for(num_threads, tiles, [&](int64_t tile, int) {
      uint32_t* places = histograms + tile * kDigitValues;
      const int64_t end = std::min(count, (tile + 1) * kTileItems);
      for (int64_t i = tile * kTileItems; i < end; ++i) spare[places[digit(items[i])]++] = items[i];
    });
    std::swap(items, spare);
  }
  return items;
}

}  // namespace hax::lsh_bucket
