// How CUDA shares the work out depends on how many channels there are: lanes for each of them, tokens of a
// chunk, warps that take turns at the chunks. Every way must be right where chunks and turns begin and end.
#include "scan/selective_scan_case.hpp"

namespace hax_test {
namespace {

// Channels of all sequences, from those that get the most lanes each to those that share one.
struct Width {
  int64_t batch, channels;
};
const Width kWidths[] = {{1, 9}, {2, 700}, {1, 2600}, {2, 2600}, {4, 2600}};

void expect_forward(const SelectiveScanCase& c, const hax_context* context) {
  SCOPED_TRACE(describe(c));
  const SelectiveScanArgs a = c.values();
  const ScanResult want = oracle_selective_scan(a);
  const NamedArguments got = run_selective_scan(a, c.options, context);
  expect_results(got, {{"y", want.y}, {"final_state", want.final_state}});
  if (c.checkpoint_every > 0) {
    EXPECT_TRUE(expect_close(
        "checkpoints",
        gather_checkpoints(got.at("checkpoints"), c.length, c.checkpoint_every, c.cu_seqlens),
        want.checkpoints, scan_tolerance(c.options.state_type)));
  }
}

TEST(SelectiveScanChunks, LengthsAroundChunksAndTurns) {
  const TestContext context;
  for (const Width& width : kWidths) {
    for (const int64_t length : {1, 4, 7, 8, 9, 16, 17, 31, 33}) {
      expect_forward({.batch = width.batch,
                      .length = length,
                      .channels = width.channels,
                      .states = 16,
                      .options = {.type = kBf16}},
                     context);
    }
  }
  for (const int64_t length : {63, 64, 65, 127, 128, 129, 255, 256, 257, 1000}) {
    expect_forward({.batch = 1, .length = length, .channels = 9, .states = 16}, context);
    expect_forward({.batch = 2, .length = length, .channels = 5, .states = 40}, context);
  }
}

TEST(SelectiveScanChunks, PairsOfChannels) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (const int64_t length : {1, 3, 4, 5, 8, 9, 12, 13}) {
      expect_forward({.batch = 450,
                      .length = length,
                      .channels = 66,
                      .states = 16,
                      .groups = length % 2 == 0 ? 1 : 3,
                      .z = length != 4,
                      .checkpoint_every = length == 12 ? 4 : 0,
                      .options = {.type = type}},
                     context);
    }
  }
}

TEST(SelectiveScanChunks, PackedSequences) {
  const TestContext context;
  for (const Width& width : {Width{1, 9}, Width{1, 350}, Width{1, 900}, Width{1, 1800}}) {
    expect_forward({.batch = 1,
                    .length = 400,
                    .channels = width.channels,
                    .states = 16,
                    .cu_seqlens = {0, 0, 1, 9, 40, 72, 72, 330, 400},
                    .checkpoint_every = 8,
                    .options = {.type = kBf16}},
                   context);
  }
}

TEST(SelectiveScanChunks, CheckpointsAnywhereInAChunk) {
  const TestContext context;
  for (const int64_t every : {1, 3, 8, 9, 31, 32, 40}) {
    expect_forward(
        {.batch = 1, .length = 300, .channels = 9, .states = 16, .checkpoint_every = every},
        context);
    expect_forward(
        {.batch = 1, .length = 70, .channels = 2600, .states = 16, .checkpoint_every = every},
        context);
  }
}

// A sequence's results are the same bits whatever runs beside it, that is however many warps take turns at it,
// and whether a state of zeros is given or none.
TEST(SelectiveScanChunks, SameBitsHoweverManyWarpsTakeTurns) {
  const TestContext context;
  const SelectiveScanCase c{.batch = 4,
                            .length = 67,
                            .channels = 2600,
                            .states = 16,
                            .initial_state = false,
                            .options = {.type = kBf16}};
  const SelectiveScanArgs all = c.values();
  const auto first_of = [](const NamedArguments& results, const char* name) {
    return slice_axis(results.at(name).array(), 0, 0, 1);
  };
  const NamedArguments want = run_selective_scan(all, c.options, context);
  for (const int64_t batch : {1, 2, 4}) {
    for (const bool zeros : {false, true}) {
      SelectiveScanArgs some = all;
      for (Array SelectiveScanArgs::*tokens :
           {&SelectiveScanArgs::u, &SelectiveScanArgs::delta, &SelectiveScanArgs::B,
            &SelectiveScanArgs::C, &SelectiveScanArgs::z}) {
        some.*tokens = slice_axis(all.*tokens, 0, 0, batch);
      }
      if (zeros) some.initial_state = Array({batch, c.channels, c.states});
      const NamedArguments got = run_selective_scan(some, c.options, context);
      for (const char* name : {"y", "final_state"}) {
        EXPECT_EQ(difference(first_of(got, name), first_of(want, name)).worst, -1)
            << name << " " << batch << " " << zeros;
      }
    }
  }
}

}  // namespace
}  // namespace hax_test
