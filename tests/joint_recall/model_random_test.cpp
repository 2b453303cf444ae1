#include <gtest/gtest.h>

#include <cmath>

#include "model/random.hpp"

namespace joint_recall {
namespace {

// Known answers of Philox 4x32-10 for counter and key all zeros and all ones.
TEST(ModelRandom, PhiloxKnownAnswers) {
  EXPECT_EQ(random_block({}, 0),
            (std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
}

TEST(ModelRandom, EveryPartOfTheKeyMatters) {
  const RandomKey key{1, RandomPurpose::kRankingNoise, 2, 3, 4};
  const auto block = random_block(key, 5);
  EXPECT_EQ(random_block(key, 5), block);
  EXPECT_NE(random_block(key, 6), block);
  for (const RandomKey& other :
       {RandomKey{9, key.purpose, 2, 3, 4}, RandomKey{1, RandomPurpose::kHashProjection, 2, 3, 4},
        RandomKey{1, key.purpose, 1, 3, 4}, RandomKey{1, key.purpose, 2, 4, 4},
        RandomKey{1, key.purpose, 2, 3, 5}, RandomKey{1ull << 40 | 1, key.purpose, 2, 3, 4},
        RandomKey{1, key.purpose, 2, 1ull << 40 | 3, 4}}) {
    EXPECT_NE(random_block(other, 5), block);
  }
}

TEST(ModelRandom, Moments) {
  const RandomKey key{7, RandomPurpose::kHashProjection, 0, 0, 0};
  constexpr int kCount = 200000;
  double sum = 0.0, squares = 0.0, fourth = 0.0, uniform = 0.0, uniform_squares = 0.0;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double n = random_normal(key, i), u = random_uniform(key, i);
    sum += n;
    squares += n * n;
    fourth += n * n * n * n;
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    uniform += u;
    uniform_squares += u * u;
  }
  // Five deviations of each estimate.
  EXPECT_NEAR(sum / kCount, 0.0, 5.0 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 1.0, 5.0 * std::sqrt(2.0 / kCount));
  EXPECT_NEAR(fourth / kCount, 3.0, 5.0 * std::sqrt(96.0 / kCount));
  EXPECT_NEAR(uniform / kCount, 0.5, 5.0 * std::sqrt(1.0 / 12.0 / kCount));
  EXPECT_NEAR(uniform_squares / kCount, 1.0 / 3.0, 5.0 * std::sqrt(4.0 / 45.0 / kCount));
}

}  // namespace
}  // namespace joint_recall
