// Shapes where the tiles, chunks and slices of ssd's CUDA backward begin, end and are missed by one.
#include "scan/ssd_case.hpp"

namespace hax_test {
namespace {

constexpr hax_data_type kTypes[] = {kFp32, kFp16, kBf16};

void expect_all_match(const std::vector<SsdCase>& cases) {
  const TestContext context;
  for (const SsdCase& c : cases) {
    SCOPED_TRACE(describe(c));
    expect_backward_matches_oracle(c, context);
  }
}

TEST(SsdBackward, Lengths) {
  std::vector<SsdCase> cases;
  for (const hax_data_type type : kTypes) {
    for (const int64_t length : {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 191, 193, 257}) {
      cases.push_back({.length = length, .options = {.type = type}});
      cases.push_back({.batch = 1,
                       .length = length,
                       .heads = 2,
                       .width = 24,
                       .states = 40,
                       .z = false,
                       .initial_state = false,
                       .options = {.type = type}});
    }
  }
  expect_all_match(cases);
}

TEST(SsdBackward, StatesAndWidths) {
  std::vector<SsdCase> cases;
  for (const hax_data_type type : kTypes) {
    for (const int64_t width : {15, 16, 17, 31, 33, 64, 65, 129}) {
      for (const int64_t states : {31, 32, 33, 64, 128, 129, 256}) {
        cases.push_back({.batch = 1,
                         .length = 70,
                         .heads = 2,
                         .width = width,
                         .states = states,
                         .skip_rank = 2,
                         .options = {.type = type, .dt_type = type}});
      }
    }
  }
  expect_all_match(cases);
}

TEST(SsdBackward, HeadsAndGroups) {
  std::vector<SsdCase> cases;
  for (const hax_data_type type : kTypes) {
    for (const int64_t groups : {1, 3, 12}) {
      for (const int64_t states : {16, 48}) {
        cases.push_back({.length = 200,
                         .heads = 12,
                         .width = 16,
                         .states = states,
                         .groups = groups,
                         .options = {.type = type}});
      }
    }
    // Enough tiles that each has a single block, which writes dB and dC itself.
    cases.push_back({.batch = 1100,
                     .length = 3,
                     .heads = 3,
                     .width = 8,
                     .states = 16,
                     .options = {.type = type}});
  }
  expect_all_match(cases);
}

TEST(SsdBackward, PackedSequences) {
  std::vector<SsdCase> cases;
  for (const hax_data_type type : kTypes) {
    for (const int64_t states : {16, 64}) {
      for (const bool initial_state : {false, true}) {
        cases.push_back({.batch = 1,
                         .length = 700,
                         .width = 16,
                         .states = states,
                         .initial_state = initial_state,
                         .cu_seqlens = {0, 0, 1, 65, 193, 193, 322, 577, 640, 700, 700},
                         .options = {.type = type}});
      }
    }
  }
  expect_all_match(cases);
}

TEST(SsdBackward, Layouts) {
  std::vector<SsdCase> cases;
  for (const hax_data_type type : kTypes) {
    for (const Layout layout : kLayouts) {
      for (const bool z : {false, true}) {
        cases.push_back({.length = 140,
                         .heads = 4,
                         .width = 64,
                         .states = 128,
                         .groups = 2,
                         .z = z,
                         .options = {.type = type, .layout = layout}});
      }
    }
  }
  expect_all_match(cases);
}

TEST(SsdBackward, GivenCheckpointsAreUsed) {
  const TestContext context;
  for (const hax_data_type type : kTypes) {
    for (const int64_t every : {1, 50, 64, 128, 250}) {
      SsdCase c{.length = 300, .states = 40, .checkpoint_every = every, .options = {.type = type}};
      if (every == 64) {
        c.batch = 1;
        c.cu_seqlens = {0, 30, 300};
      }
      SCOPED_TRACE(describe(c));
      const SsdArgs a = c.values();
      const Array flat = oracle_ssd(a).checkpoints;
      Array states({c.batch, c.length / every, c.heads, c.width, c.states});
      if (c.cu_seqlens.empty()) {
        states.data = flat.data;
      } else {  // no checkpoint in the first sequence, four in the second, from row 0 on
        std::copy(flat.data.begin(), flat.data.end(), states.data.begin());
      }
      const NamedArrays want = by_name(oracle_ssd_backward(a, c.dy(), c.dfinal_state()), a);
      expect_gradients(run_ssd_backward(a, c.dy(), c.dfinal_state(), c.options, context,
                                        Argument::input(states)),
                       want, type);
      for (double& state : states.data) state += 100.0;
      const Array dC =
          run_ssd_backward(a, c.dy(), c.dfinal_state(), c.options, context, Argument::input(states))
              .at("dC")
              .array();
      EXPECT_GT(difference(dC, want.at("dC")).error, 1e-1);
    }
  }
}

TEST(SsdBackward, SameBitsEveryTime) {
  const TestContext context;
  const SsdCase c{
      .length = 300, .heads = 20, .width = 32, .states = 64, .options = {.type = kBf16}};
  const SsdArgs a = c.values();
  const NamedArguments first = run_ssd_backward(a, c.dy(), c.dfinal_state(), c.options, context);
  for (int i = 0; i < 3; ++i) {
    expect_same_bits(run_ssd_backward(a, c.dy(), c.dfinal_state(), c.options, context), first);
  }
}

// Long enough for many chunks, with steps that let states live across them.
TEST(SsdBackward, ManyChunks) {
  const TestContext context;
  for (const hax_data_type type : kTypes) {
    const SsdCase c{.batch = 1,
                    .length = 3000,
                    .heads = 2,
                    .width = 16,
                    .states = 33,
                    .options = {.type = type}};
    SsdArgs a = c.values();
    for (double& value : a.dt.data) value = round_to(value - 3.0, kFp32);
    expect_gradients(run_ssd_backward(a, c.dy(), c.dfinal_state(), c.options, context),
                     by_name(oracle_ssd_backward(a, c.dy(), c.dfinal_state()), a), type);
  }
}

// Few and long: their walks are cut, at checkpoints or elsewhere.
TEST(SsdBackward, LongSequences) {
  const TestContext context;
  for (const hax_data_type type : kTypes) {
    for (const int64_t states : {16, 100}) {
      for (const int64_t every : {0, 700}) {
        const SsdCase c{.batch = 1,
                        .length = 2500,
                        .heads = 2,
                        .width = 16,
                        .states = states,
                        .checkpoint_every = every,
                        .options = {.type = type}};
        SCOPED_TRACE(describe(c));
        const SsdArgs a = c.values();
        Argument checkpoints;
        if (every > 0) {
          Array given({1, c.length / every, c.heads, c.width, c.states});
          given.data = oracle_ssd(a).checkpoints.data;
          checkpoints = Argument::input(given);
        }
        expect_gradients(
            run_ssd_backward(a, c.dy(), c.dfinal_state(), c.options, context, checkpoints),
            by_name(oracle_ssd_backward(a, c.dy(), c.dfinal_state()), a), type);
      }
    }
  }
}

}  // namespace
}  // namespace hax_test
