// Many sequences, long ones, and sequences cut into several calls that are each longer than a tile.
#include <random>

#include "scan/causal_conv1d_case.hpp"
#include "scan/selective_scan_case.hpp"
#include "scan/ssd_case.hpp"

namespace hax_test {
namespace {

// Boundaries of 70,000 sequences of 0 to 3 tokens, more than a grid's second axis can count.
std::vector<int64_t> many_sequences() {
  std::vector<int64_t> cu_seqlens{0};
  for (int64_t s = 0; s < 70000; ++s) cu_seqlens.push_back(cu_seqlens.back() + s % 4);
  return cu_seqlens;
}

constexpr int64_t kMany = 70000 / 4 * 6;
constexpr int64_t kLong = 1048576;

TEST(CausalConv1dLarge, ManySequences) {
  const TestContext context;
  const ConvCase c{.batch = 1, .length = kMany, .channels = 8, .cu_seqlens = many_sequences()};
  expect_forward_matches(c, context);
  expect_backward_matches(c, context);
}

TEST(CausalConv1dLarge, AMillionTokens) {
  const TestContext context;
  const ConvCase c{.batch = 1, .length = kLong, .channels = 4};
  expect_forward_matches(c, context);
  expect_backward_matches(c, context);
}

TEST(SelectiveScanLarge, ManySequences) {
  const TestContext context;
  expect_matches_oracle(
      {.batch = 1, .length = kMany, .channels = 4, .states = 2, .cu_seqlens = many_sequences()},
      context);
}

TEST(SelectiveScanLarge, AMillionTokens) {
  const TestContext context;
  expect_matches_oracle({.batch = 1, .length = kLong, .channels = 2, .states = 2}, context);
}

TEST(SsdLarge, ManySequences) {
  const TestContext context;
  expect_matches_oracle({.batch = 1,
                         .length = kMany,
                         .heads = 2,
                         .width = 2,
                         .states = 2,
                         .cu_seqlens = many_sequences()},
                        context);
}

TEST(SsdLarge, AMillionTokens) {
  const TestContext context;
  expect_matches_oracle({.batch = 1, .length = kLong, .heads = 1, .width = 2, .states = 2},
                        context);
}

// Random places to cut `length` tokens at, some of them twice.
std::vector<int64_t> random_cuts(int64_t length, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int64_t> cuts{0, length, length};
  for (int i = 0; i < 6; ++i) cuts.push_back(static_cast<int64_t>(engine() % uint64_t(length)));
  cuts.push_back(cuts.back());
  std::sort(cuts.begin(), cuts.end());
  return cuts;
}

// Runs `part(begin, end, state)` from cut to cut; it answers y and final_state. The whole is one call.
template <class Part>
void expect_parts_equal_whole(int64_t length, const Array& initial_state, const Part& part) {
  const NamedArguments whole = part(0, length, initial_state);
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    const std::vector<int64_t> cuts = random_cuts(length, seed);
    SCOPED_TRACE("cuts " + to_string(cuts));
    Array state = initial_state;
    std::vector<Array> parts;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const NamedArguments out = part(cuts[i], cuts[i + 1], state);
      parts.push_back(out.at("y").array());
      state = out.at("final_state").array();
    }
    EXPECT_TRUE(expect_close("y", concat_axis(parts, 1), whole.at("y").array(), 1e-5));
    EXPECT_TRUE(expect_close("final_state", state, whole.at("final_state").array(), 1e-5));
  }
}

TEST(SelectiveScanLarge, RandomCutsEqualWhole) {
  const TestContext context;
  for (const int64_t states : {4, 16}) {
    const SelectiveScanCase c{.length = 3000, .channels = 8, .states = states};
    const SelectiveScanArgs a = c.values();
    expect_parts_equal_whole(
        c.length, a.initial_state, [&](int64_t begin, int64_t end, const Array& state) {
          SelectiveScanArgs part = a;
          for (Array SelectiveScanArgs::*tokens :
               {&SelectiveScanArgs::u, &SelectiveScanArgs::delta, &SelectiveScanArgs::B,
                &SelectiveScanArgs::C, &SelectiveScanArgs::z}) {
            part.*tokens = slice_axis(a.*tokens, 1, begin, end);
          }
          part.initial_state = state;
          return run_selective_scan(part, {}, context);
        });
  }
}

TEST(SsdLarge, RandomCutsEqualWhole) {
  const TestContext context;
  const SsdCase c{.length = 1500, .heads = 2, .width = 16, .states = 32};
  const SsdArgs a = c.values();
  expect_parts_equal_whole(
      c.length, a.initial_state, [&](int64_t begin, int64_t end, const Array& state) {
        SsdArgs part = a;
        for (Array SsdArgs::*tokens :
             {&SsdArgs::x, &SsdArgs::dt, &SsdArgs::B, &SsdArgs::C, &SsdArgs::z}) {
          part.*tokens = slice_axis(a.*tokens, 1, begin, end);
        }
        part.initial_state = state;
        return run_ssd(part, {}, context);
      });
}

}  // namespace
}  // namespace hax_test
