#include "model/random.hpp"

#include "model/random_block.hpp"

namespace joint_recall {

std::array<uint32_t, 4> random_block(const RandomKey& key, uint64_t index) {
  const random_numbers::Block b = random_numbers::block(key, index);
  return {b.word[0], b.word[1], b.word[2], b.word[3]};
}

float random_uniform(const RandomKey& key, uint64_t index) {
  return random_numbers::uniform(key, index);
}

float random_normal(const RandomKey& key, uint64_t index) {
  return random_numbers::normal(key, index);
}

}  // namespace joint_recall
