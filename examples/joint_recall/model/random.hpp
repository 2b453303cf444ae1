// Random numbers by counter: the same key gives the same numbers, whatever was drawn before, on any
// machine and in any order. So a resumed run draws what the uninterrupted one would have drawn.
#pragma once

#include <array>
#include <cstdint>

namespace joint_recall {

// What numbers are drawn for; keeps streams of equal seed and step apart.
enum class RandomPurpose : uint32_t {
  kInitialWeight,
  kHashProjection,
  kEvaluationHashProjection,
  kRankingNoise
};

struct RandomKey {
  uint64_t seed = 0;
  RandomPurpose purpose = RandomPurpose::kInitialWeight;
  uint32_t item = 0;  // layer, or index of the parameter
  uint64_t step = 0;  // optimiser step, or number of the evaluation batch
  uint32_t part = 0;  // micro-step of an accumulated gradient
  // Uniform numbers are counted from here: tokens of other ranks before this one's.
  uint64_t first = 0;
};

// The part of a key that changes from pass to pass.
struct RandomStep {
  uint64_t step = 0;
  uint32_t part = 0;
  uint64_t first = 0;
};

// Four uniform 32-bit numbers: block `index` of the key's stream (Philox 4x32-10; Salmon et al.,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
std::array<uint32_t, 4> random_block(const RandomKey& key, uint64_t index);

// Number `index` of the key's stream, uniform on [0, 1) in steps of 2^-24.
float random_uniform(const RandomKey& key, uint64_t index);

// Number `index` of the key's stream, normal with mean 0 and deviation 1 (Box-Muller).
float random_normal(const RandomKey& key, uint64_t index);

}  // namespace joint_recall
