// ssd in 16-bit types, which a GPU takes in chunks of 64 tokens, tiles of 16 rows and columns: shapes on and beside the
// edges of these.
#include "scan/ssd_case.hpp"

namespace hax_test {
namespace {

SsdCase typed(SsdCase c, hax_data_type type, hax_data_type state_type = kFp32) {
  c.options.type = c.options.dt_type = type;
  c.options.state_type = state_type;
  return c;
}

void expect_all_match(const std::vector<SsdCase>& cases) {
  const TestContext context(2);
  for (const SsdCase& c : cases) {
    for (const hax_data_type type : {kFp16, kBf16}) {
      const SsdCase of_type = typed(c, type);
      SCOPED_TRACE(describe(of_type));
      expect_matches_oracle(of_type, context);
    }
  }
}

TEST(SsdTiles, Lengths) {
  std::vector<SsdCase> cases;
  for (const int64_t length : {0, 1, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 200}) {
    cases.push_back({.length = length, .heads = 2, .width = 16, .states = 32});
    cases.push_back(
        {.batch = 1, .length = length, .heads = 3, .width = 20, .states = 24, .z = false});
  }
  expect_all_match(cases);
}

TEST(SsdTiles, Widths) {
  std::vector<SsdCase> cases;
  for (const int64_t width : {1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 129, 256}) {
    cases.push_back({.batch = 1, .length = 70, .heads = 3, .width = width, .states = 16});
  }
  expect_all_match(cases);
}

TEST(SsdTiles, States) {
  std::vector<SsdCase> cases;
  for (const int64_t states : {1, 8, 15, 16, 17, 31, 32, 33, 64, 65, 100, 128, 129, 200, 256}) {
    cases.push_back({.batch = 1, .length = 70, .heads = 2, .width = 24, .states = states});
  }
  expect_all_match(cases);
}

TEST(SsdTiles, HeadsAndGroups) {
  std::vector<SsdCase> cases;
  for (const int64_t heads : {1, 2, 3, 4, 5, 8, 9}) {
    cases.push_back({.length = 66, .heads = heads, .width = 16, .states = 16, .groups = heads});
    cases.push_back({.length = 66, .heads = 2 * heads, .width = 16, .states = 16, .groups = 2});
    cases.push_back({.length = 40, .heads = heads, .width = 72, .states = 16, .skip_rank = 2});
  }
  expect_all_match(cases);
}

TEST(SsdTiles, FullSizeHeads) {
  expect_all_match({{.batch = 1, .length = 200, .heads = 5, .width = 64, .states = 128, .z = false},
                    {.batch = 2, .length = 130, .heads = 4, .width = 64, .states = 128},
                    {.batch = 1, .length = 130, .heads = 2, .width = 128, .states = 256},
                    {.batch = 2, .length = 130, .heads = 8, .width = 16, .states = 32}});
}

// More heads and chunks than a GPU has room for at once: a block takes several heads, one after the other.
TEST(SsdTiles, ManyFullSizeHeads) {
  const TestContext context(2);
  const SsdCase c = typed(
      {.batch = 11, .length = 300, .heads = 16, .width = 64, .states = 128, .z = false}, kBf16);
  SCOPED_TRACE(describe(c));
  expect_matches_oracle(c, context);
}

TEST(SsdTiles, LayoutsAndStateTypes) {
  const TestContext context(2);
  for (const hax_data_type type : {kFp16, kBf16}) {
    for (const hax_data_type state_type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        SsdCase c =
            typed({.length = 70, .heads = 3, .width = 40, .states = 24, .checkpoint_every = 30},
                  type, state_type);
        c.options.layout = layout;
        SCOPED_TRACE(describe(c));
        expect_matches_oracle(c, context);
      }
    }
  }
}

// Few heads and many tokens: sequences are cut up.
TEST(SsdTiles, LongSequences) {
  std::vector<SsdCase> cases;
  for (const bool initial_state : {false, true}) {
    cases.push_back({.batch = 1,
                     .length = 12000,
                     .heads = 2,
                     .width = 4,
                     .states = 3,
                     .initial_state = initial_state});
    cases.push_back({.batch = 3,
                     .length = 4100,
                     .heads = 5,
                     .width = 3,
                     .states = 2,
                     .initial_state = initial_state,
                     .checkpoint_every = 100});
  }
  cases.push_back({.batch = 2, .length = 9000, .heads = 1, .width = 2, .states = 2});
  expect_all_match(cases);
}

// Few columns and many chunks, which parts of pieces add up, and columns that are cut once.
TEST(SsdTiles, CutColumns) {
  std::vector<SsdCase> cases;
  for (const int64_t states : {40, 100}) {
    cases.push_back({.batch = 1, .length = 64 * 140 - 3, .heads = 2, .width = 2, .states = states});
    cases.push_back({.batch = 70, .length = 100, .heads = 4, .width = 2, .states = states});
  }
  cases.push_back({.batch = 200, .length = 180, .heads = 4, .width = 2, .states = 8});
  expect_all_match(cases);
}

// Nothing but what every call has: no gate, D by head, rows of 16 bytes.
TEST(SsdTiles, PlainCalls) {
  expect_all_match(
      {{.batch = 1, .length = 450, .heads = 3, .width = 16, .states = 32, .z = false},
       {.batch = 2, .length = 140, .heads = 3, .width = 32, .states = 16, .z = false},
       {.batch = 1, .length = 140, .heads = 3, .width = 32, .states = 64, .z = false},
       {.batch = 1, .length = 140, .heads = 3, .width = 64, .states = 128, .z = false}});
}

TEST(SsdTiles, PackedSequences) {
  expect_all_match({{.batch = 1,
                     .length = 700,
                     .heads = 3,
                     .width = 16,
                     .states = 16,
                     .cu_seqlens = {0, 0, 1, 16, 33, 33, 97, 161, 400, 700, 700},
                     .checkpoint_every = 20},
                    {.batch = 1,
                     .length = 300,
                     .heads = 2,
                     .width = 16,
                     .states = 16,
                     .initial_state = false,
                     .cu_seqlens = {0, 64, 128, 300}}});
}

TEST(SsdTiles, LargeStepsAndLimits) {
  const TestContext context;
  for (const hax_data_type type : {kFp16, kBf16}) {
    expect_matches_oracle(
        typed({.length = 150, .width = 16, .states = 16, .dt_min = 0.2, .dt_max = 0.4}, type),
        context);
    const SsdCase c = typed({.batch = 1, .length = 100, .bias = false}, type);
    SsdArgs a = c.values();
    const double steps[] = {-200.0, 500.0, -30.0, 3.0, 40.0, -1.0};
    for (int64_t t = 0; t < c.length; ++t) {
      for (int64_t h = 0; h < c.heads; ++h) a.dt.at(0, t, h) = steps[(t + h) % 6];
    }
    const ScanResult want = oracle_ssd(a);
    expect_results(run_ssd(a, c.options, context),
                   {{"y", want.y}, {"final_state", want.final_state}});
  }
}

}  // namespace
}  // namespace hax_test
