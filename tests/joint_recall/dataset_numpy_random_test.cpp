#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "data/numpy_random.hpp"

namespace joint_recall {
namespace {

std::vector<int> randint(NumpyRandom& random, std::uint32_t limit, std::size_t count) {
  std::vector<int> numbers(count, -1);
  random.randint<int>(limit, numbers);
  return numbers;
}

std::vector<int> permutation(NumpyRandom& random, std::size_t count) {
  std::vector<int> numbers(count, -1);
  random.permutation<int>(numbers);
  return numbers;
}

using Ints = std::vector<int>;

// What NumPy prints for these calls in this order after np.random.seed(seed).
struct Stream {
  std::uint32_t seed;
  Ints randint_16;
  Ints permutation_10;
  Ints randint_300;
  Ints permutation_7;
  Ints randint_65536;
};

class NumpyRandomTest : public ::testing::TestWithParam<Stream> {};

TEST_P(NumpyRandomTest, DrawsWhatNumpyDraws) {
  const Stream& expected = GetParam();
  NumpyRandom random(expected.seed);
  EXPECT_EQ(randint(random, 16, 8), expected.randint_16);
  EXPECT_EQ(permutation(random, 10), expected.permutation_10);
  EXPECT_EQ(randint(random, 300, 5), expected.randint_300);
  EXPECT_EQ(randint(random, 1, 3), Ints({0, 0, 0}));  // draws nothing
  EXPECT_EQ(permutation(random, 1), Ints({0}));       // draws nothing
  EXPECT_EQ(permutation(random, 0), Ints());
  EXPECT_EQ(permutation(random, 7), expected.permutation_7);
  EXPECT_EQ(randint(random, 65536, 2), expected.randint_65536);
}

INSTANTIATE_TEST_SUITE_P(Seeds, NumpyRandomTest,
                         ::testing::Values(Stream{0,
                                                  {12, 15, 5, 0, 3, 11, 3, 7},
                                                  {1, 6, 8, 7, 0, 4, 2, 5, 3, 9},
                                                  {193, 39, 87, 174, 88},
                                                  {2, 3, 0, 4, 6, 5, 1},
                                                  {38804, 2163}},
                                           Stream{1,
                                                  {5, 11, 12, 8, 15, 9, 11, 5},
                                                  {3, 8, 7, 2, 6, 5, 4, 1, 9, 0},
                                                  {276, 254, 252, 156, 50},
                                                  {6, 0, 2, 3, 5, 1, 4},
                                                  {33878, 39053}},
                                           Stream{7,
                                                  {15, 4, 9, 6, 3, 3, 7, 7},
                                                  {6, 3, 4, 8, 5, 2, 1, 0, 7, 9},
                                                  {0, 75, 250, 6, 275},
                                                  {2, 3, 1, 5, 0, 6, 4},
                                                  {37627, 48317}},
                                           Stream{4294967295,
                                                  {3, 2, 12, 7, 4, 0, 6, 10},
                                                  {8, 1, 5, 4, 6, 2, 3, 7, 0, 9},
                                                  {141, 87, 214, 14, 201},
                                                  {2, 5, 3, 0, 4, 6, 1},
                                                  {16024, 56022}}));

TEST(NumpyRandom, FollowsTheStreamFarBeyondOneStateOfTheEngine) {
  NumpyRandom random(5);
  randint(random, 16, 100'000);
  EXPECT_EQ(random.bounded(0xffffffff), 1809548034u);
}

}  // namespace
}  // namespace joint_recall
