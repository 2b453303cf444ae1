// The random numbers of random.hpp as CPU and GPU draw them alike.
#pragma once

#include <cmath>
#include <cstdint>

#include "model/random.hpp"

#ifdef __CUDACC__
#define JOINT_RECALL_ANYWHERE __host__ __device__
#else
#define JOINT_RECALL_ANYWHERE
#endif

namespace joint_recall::random_numbers {

struct Block {
  uint32_t word[4];
};

// Block `index` of the key's stream. The key holds the seed; a counter of 128 bits has room for the index
// below 2^32, the step, and a word that tells purpose, item and part apart.
JOINT_RECALL_ANYWHERE inline Block block(const RandomKey& key, uint64_t index) {
  Block counter = {
      {static_cast<uint32_t>(index), static_cast<uint32_t>(key.step),
       static_cast<uint32_t>(key.step >> 32) ^ static_cast<uint32_t>(index >> 32),
       static_cast<uint32_t>(key.purpose) << 28 | (key.item & 0xfff) << 16 | (key.part & 0xffff)}};
  uint32_t* c = counter.word;
  auto k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c[0], b = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

JOINT_RECALL_ANYWHERE inline float to_unit(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

JOINT_RECALL_ANYWHERE inline float uniform(const RandomKey& key, uint64_t index) {
  index += key.first;
  return to_unit(block(key, index / 4).word[index % 4]);
}

JOINT_RECALL_ANYWHERE inline float normal(const RandomKey& key, uint64_t index) {
  constexpr double kPi = 3.14159265358979323846;
  const Block b = block(key, index / 4);
  const uint64_t pair = index % 4 / 2 * 2;
  // 1 - u is in (0, 1], so its logarithm is finite.
  const double radius =
      std::sqrt(-2.0 * std::log(1.0 - static_cast<double>(to_unit(b.word[pair]))));
  const double angle = 2.0 * kPi * static_cast<double>(to_unit(b.word[pair + 1]));
  return static_cast<float>(radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle)));
}

}  // namespace joint_recall::random_numbers
