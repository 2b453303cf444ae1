// Random cases of causal_conv1d, run through the C functions and through the oracle.
#pragma once

#include <string>
#include <vector>

#include "support/comparator.hpp"
#include "support/oracle_scan.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {

struct ConvCase {
  int64_t batch = 2, length = 37, channels = 9, width = 4;
  bool silu = true, bias = true, initial_state = true;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type type = kFp32;
  hax_data_type weight_type = kFp32;
  hax_data_type state_type = kFp32;
  hax_data_type index_type = kInt32;
  Layout layout = Layout::compact;
  uint64_t seed = 1;

  int64_t sequences() const {
    return cu_seqlens.empty() ? batch : static_cast<int64_t>(cu_seqlens.size()) - 1;
  }
  std::vector<int64_t> tokens_shape() const { return {batch, length, channels}; }
  std::vector<int64_t> state_shape() const { return {sequences(), width - 1, channels}; }

  // Inputs as the operator sees them: rounded to their types.
  Conv1dArgs oracle_args() const {
    Conv1dArgs args;
    args.x = round_to(random_normal(tokens_shape(), seed), type);
    args.weight = round_to(random_normal({channels, width}, seed + 1), weight_type);
    if (bias) args.bias = round_to(random_normal({channels}, seed + 2), kFp32);
    if (initial_state)
      args.initial_state = round_to(random_normal(state_shape(), seed + 3), state_type);
    args.silu = silu;
    args.cu_seqlens = cu_seqlens;
    return args;
  }
  Array dy() const { return round_to(random_normal(tokens_shape(), seed + 4), type); }
  Array dfinal_state() const {
    return round_to(random_normal(state_shape(), seed + 5), state_type);
  }
  Argument boundaries() const {
    return cu_seqlens.empty() ? Argument() : Argument::indices(cu_seqlens, index_type);
  }
};

// Tolerances relative to the norm: rounding of the outputs dominates in the 16-bit types.
inline double forward_tolerance(hax_data_type type) {
  if (type.bits == 32) return 1e-5;
  return type.code == HAX_TYPE_BFLOAT ? 1e-2 : 2e-3;
}
inline double backward_tolerance(hax_data_type type) {
  return type.bits == 32 ? 1e-5 : 2 * forward_tolerance(type);
}

struct ConvOutputs {
  Argument y, final_state;
};

inline ConvOutputs run_forward(const ConvCase& c, const hax_context* context) {
  const Conv1dArgs values = c.oracle_args();
  const Argument x = Argument::input(values.x, c.type, c.layout);
  const Argument weight = Argument::input(values.weight, c.weight_type, c.layout);
  const Argument bias = Argument::input(values.bias);
  const Argument cu_seqlens = c.boundaries();
  const Argument initial_state = Argument::input(values.initial_state, c.state_type, c.layout);
  ConvOutputs out{Argument::output(c.tokens_shape(), c.type, c.layout),
                  Argument::output(c.state_shape(), c.state_type, c.layout)};
  hax_causal_conv1d_forward_args args = {};
  args.x = x.arg();
  args.weight = weight.arg();
  args.bias = bias.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.initial_state = initial_state.arg();
  args.y = out.y.arg();
  args.final_state = out.final_state.arg();
  args.activation = c.silu ? HAX_ACTIVATION_SILU : HAX_ACTIVATION_NONE;
  EXPECT_EQ(run(hax_causal_conv1d_forward_workspace, hax_causal_conv1d_forward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  EXPECT_TRUE(out.y.sentinels_intact());
  EXPECT_TRUE(out.final_state.sentinels_intact());
  EXPECT_TRUE(x.untouched() && weight.untouched());
  return out;
}

struct ConvGradients {
  Argument dx, dweight, dbias, dinitial_state;
};

inline ConvGradients run_backward(const ConvCase& c, const hax_context* context,
                                  bool deterministic = false) {
  const Conv1dArgs values = c.oracle_args();
  const Argument x = Argument::input(values.x, c.type, c.layout);
  const Argument weight = Argument::input(values.weight, c.weight_type, c.layout);
  const Argument bias = Argument::input(values.bias);
  const Argument cu_seqlens = c.boundaries();
  const Argument initial_state = Argument::input(values.initial_state, c.state_type, c.layout);
  const Argument dy = Argument::input(c.dy(), c.type, c.layout);
  const Argument dfinal = Argument::input(c.dfinal_state(), c.state_type, c.layout);
  ConvGradients out{Argument::output(c.tokens_shape(), c.type, c.layout),
                    Argument::output({c.channels, c.width}, kFp32, c.layout),
                    c.bias ? Argument::output({c.channels}) : Argument(),
                    Argument::output(c.state_shape(), c.state_type, c.layout)};
  hax_causal_conv1d_backward_args args = {};
  args.x = x.arg();
  args.weight = weight.arg();
  args.bias = bias.arg();
  args.cu_seqlens = cu_seqlens.arg();
  args.initial_state = initial_state.arg();
  args.dy = dy.arg();
  args.dfinal_state = dfinal.arg();
  args.dx = out.dx.arg();
  args.dweight = out.dweight.arg();
  args.dbias = out.dbias.arg();
  args.dinitial_state = out.dinitial_state.arg();
  args.activation = c.silu ? HAX_ACTIVATION_SILU : HAX_ACTIVATION_NONE;
  args.deterministic = deterministic;
  EXPECT_EQ(run(hax_causal_conv1d_backward_workspace, hax_causal_conv1d_backward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  for (const Argument* argument : {&out.dx, &out.dweight, &out.dbias, &out.dinitial_state}) {
    EXPECT_TRUE(argument->sentinels_intact());
  }
  return out;
}

inline void expect_forward_matches(const ConvCase& c, const hax_context* context) {
  const ConvOutputs got = run_forward(c, context);
  const Conv1dResult want = oracle_causal_conv1d(c.oracle_args());
  EXPECT_TRUE(expect_close("y", got.y.array(), want.y, forward_tolerance(c.type)));
  EXPECT_TRUE(expect_close("final_state", got.final_state.array(), want.final_state,
                           forward_tolerance(c.state_type)));
}

inline void expect_backward_matches(const ConvCase& c, const hax_context* context) {
  const ConvGradients got = run_backward(c, context);
  const Conv1dGrads want = oracle_causal_conv1d_backward(c.oracle_args(), c.dy(), c.dfinal_state());
  EXPECT_TRUE(expect_close("dx", got.dx.array(), want.dx, backward_tolerance(c.type)));
  EXPECT_TRUE(expect_close("dweight", got.dweight.array(), want.dweight, 1e-5));
  if (c.bias) {
    EXPECT_TRUE(expect_close("dbias", got.dbias.array(), want.dbias, 1e-5));
  }
  EXPECT_TRUE(expect_close("dinitial_state", got.dinitial_state.array(), want.dinitial_state,
                           backward_tolerance(c.state_type)));
}

// Shapes where tiles, blocks of channels and windows begin, end and are missed by one.
inline std::vector<ConvCase> hostile_cases() {
  std::vector<ConvCase> cases;
  for (const int64_t length : {0, 1, 2, 3, 63, 64, 65, 511, 512, 513}) {
    cases.push_back({.length = length, .channels = 5});
  }
  for (const int64_t channels : {0, 1, 7, 8, 63, 64, 65, 130}) {
    cases.push_back({.length = 20, .channels = channels});
  }
  for (int64_t width = 2; width <= 8; ++width) {
    cases.push_back({.length = 70, .width = width, .silu = width % 2 == 0});
    cases.push_back({.length = 3, .width = width, .bias = false, .initial_state = false});
  }
  cases.push_back({.batch = 0});
  cases.push_back({.batch = 1, .length = 600, .cu_seqlens = {0, 0, 1, 3, 64, 64, 520, 600}});
  cases.push_back({.batch = 1,
                   .length = 600,
                   .initial_state = false,
                   .cu_seqlens = {0, 599, 600},
                   .index_type = kInt64});
  cases.push_back({.batch = 1, .length = 0, .cu_seqlens = {0}});
  cases.push_back({.batch = 1, .length = 0, .cu_seqlens = {0, 0, 0}});
  return cases;
}

inline std::string describe(const ConvCase& c) {
  std::string text = "B" + std::to_string(c.batch) + " L" + std::to_string(c.length) + " D" +
                     std::to_string(c.channels) + " W" + std::to_string(c.width) + " " +
                     name_of(c.type) + " weight " + name_of(c.weight_type) + " state " +
                     name_of(c.state_type) + " " + name_of(c.layout);
  if (!c.cu_seqlens.empty()) text += " packed " + to_string(c.cu_seqlens);
  return text;
}

}  // namespace hax_test
