#include "model/random.hpp"

#include <cmath>
#include <numbers>

namespace joint_recall {
namespace {

struct Product {
  uint32_t high, low;
};

Product multiply(uint32_t a, uint32_t b) {
  const uint64_t product = uint64_t{a} * b;
  return {static_cast<uint32_t>(product >> 32), static_cast<uint32_t>(product)};
}

float to_unit(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace

std::array<uint32_t, 4> random_block(const RandomKey& key, uint64_t index) {
  // The key holds the seed; a counter of 128 bits has room for the index below 2^32, the step, and
  // a word that tells purpose, item and part apart.
  std::array<uint32_t, 4> counter = {
      static_cast<uint32_t>(index), static_cast<uint32_t>(key.step),
      static_cast<uint32_t>(key.step >> 32) ^ static_cast<uint32_t>(index >> 32),
      static_cast<uint32_t>(key.purpose) << 28 | (key.item & 0xfff) << 16 | (key.part & 0xffff)};
  auto k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const Product a = multiply(0xD2511F53u, counter[0]), b = multiply(0xCD9E8D57u, counter[2]);
    counter = {b.high ^ counter[1] ^ k0, b.low, a.high ^ counter[3] ^ k1, a.low};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

float random_uniform(const RandomKey& key, uint64_t index) {
  return to_unit(random_block(key, index / 4)[index % 4]);
}

float random_normal(const RandomKey& key, uint64_t index) {
  const auto block = random_block(key, index / 4);
  const uint64_t pair = index % 4 / 2 * 2;
  // 1 - u is in (0, 1], so its logarithm is finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - double{to_unit(block[pair])}));
  const double angle = 2.0 * std::numbers::pi * to_unit(block[pair + 1]);
  return static_cast<float>(radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

}  // namespace joint_recall
