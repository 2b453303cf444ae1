// A pass's random numbers.
#pragma once

#include "model/pass.hpp"

namespace joint_recall {

// Random numbers keyed by what they are for, so that they don't depend on what was drawn before.
class KeyedDraws : public RandomDraws {
 public:
  KeyedDraws(Backend& backend, uint64_t seed, RandomPurpose hash_purpose)
      : backend_(backend), seed_(seed), hash_purpose_(hash_purpose) {}

  // On the device, where the pass is known.
  const RandomStep* at = nullptr;

  void hash_projection(int64_t layer, Matrix R) override {
    backend_.random_normal(key(hash_purpose_, layer), at, R.rows * R.columns, R.data);
  }
  void ranking_noise(int64_t layer, int64_t tokens, float* noise) override {
    backend_.random_uniform(key(RandomPurpose::kRankingNoise, layer), at, tokens, noise);
  }

 private:
  RandomKey key(RandomPurpose purpose, int64_t layer) const {
    return {seed_, purpose, static_cast<uint32_t>(layer), 0, 0, 0};
  }

  Backend& backend_;
  uint64_t seed_;
  RandomPurpose hash_purpose_;
};

}  // namespace joint_recall
