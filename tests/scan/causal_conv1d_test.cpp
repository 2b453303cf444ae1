#include "scan/causal_conv1d_case.hpp"

#include "support/safetensors.hpp"

namespace hax_test {
namespace {

TEST(CausalConv1d, HostileShapes) {
  const TestContext context;
  for (const ConvCase& c : hostile_cases()) {
    SCOPED_TRACE(describe(c));
    expect_forward_matches(c, context);
    expect_backward_matches(c, context);
  }
}

TEST(CausalConv1d, EveryTypeAndLayoutOnEveryCpuLevel) {
  for (const std::string& level : available_cpu_levels()) {
    const TestContext context(2, level.c_str());
    for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
      for (const Layout layout : kLayouts) {
        for (const bool typed_weight : {false, true}) {
          const ConvCase c{.length = 70,
                           .channels = 67,
                           .type = type,
                           .weight_type = typed_weight ? type : kFp32,
                           .layout = layout};
          SCOPED_TRACE(level + " " + describe(c));
          expect_forward_matches(c, context);
          expect_backward_matches(c, context);
        }
      }
    }
  }
}

// Rows of whole 16-byte vectors, which have kernels of their own on CUDA.
TEST(CausalConv1d, WholeVectorsOfEveryType) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (int64_t width = 2; width <= 8; ++width) {
      for (const int64_t channels : {8, 136}) {
        ConvCase c{.length = 150, .channels = channels, .width = width, .type = type};
        SCOPED_TRACE(describe(c));
        expect_forward_matches(c, context);
        expect_backward_matches(c, context);
        c.batch = 1;
        c.length = 1100;
        c.cu_seqlens = {0, 0, 1, 3, 64, 64, 72, 520, 1097, 1100};
        expect_forward_matches(c, context);
        expect_backward_matches(c, context);
      }
    }
  }
}

TEST(CausalConv1d, StateTypeIsItsOwn) {
  const TestContext context;
  for (const hax_data_type type : {kFp32, kFp16, kBf16}) {
    for (const hax_data_type state_type : {kFp32, kFp16, kBf16}) {
      const ConvCase c{.type = type, .state_type = state_type};
      SCOPED_TRACE(describe(c));
      expect_forward_matches(c, context);
      expect_backward_matches(c, context);
    }
  }
}

TEST(CausalConv1d, SameBitsForEveryThreadCount) {
  const ConvCase c{.batch = 1, .length = 2000, .channels = 70, .cu_seqlens = {0, 700, 701, 2000}};
  const TestContext one(1);
  const ConvGradients want = run_backward(c, one, true);
  const ConvOutputs want_forward = run_forward(c, one);
  for (const int threads : {2, 3, 8}) {
    const TestContext several(threads);
    const ConvGradients got = run_backward(c, several, true);
    EXPECT_EQ(got.dx.array().data, want.dx.array().data);
    EXPECT_EQ(got.dweight.array().data, want.dweight.array().data);
    EXPECT_EQ(got.dbias.array().data, want.dbias.array().data);
    EXPECT_EQ(run_forward(c, several).y.array().data, want_forward.y.array().data);
  }
}

TEST(CausalConv1d, OptionalOutputsMayBeLeftOut) {
  const TestContext context;
  const ConvCase c;
  const Conv1dArgs values = c.oracle_args();
  const Argument x = Argument::input(values.x), weight = Argument::input(values.weight);
  const Argument dy = Argument::input(c.dy());
  const Argument dbias = Argument::output({c.channels});
  hax_causal_conv1d_backward_args args = {};
  args.x = x.arg();
  args.weight = weight.arg();
  args.dy = dy.arg();
  args.dbias = dbias.arg();
  HAX_RUN(causal_conv1d_backward, context, args);
  Conv1dArgs plain = values;
  plain.bias = plain.initial_state = Array();
  plain.silu = false;
  EXPECT_TRUE(expect_close("dbias", dbias.array(),
                           oracle_causal_conv1d_backward(plain, c.dy()).dbias, 1e-5));
}

TEST(CausalConv1d, SplitAnywhereEqualsWhole) {
  const TestContext context;
  const ConvCase c{.batch = 1, .length = 40, .channels = 6};
  const Conv1dArgs values = c.oracle_args();
  const Conv1dResult whole = oracle_causal_conv1d(values);
  for (int64_t cut = 0; cut <= c.length; ++cut) {
    Array state = values.initial_state;
    std::vector<Array> parts;
    for (const auto& [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, c.length}}) {
      const Argument x = Argument::input(slice_axis(values.x, 1, begin, end));
      const Argument weight = Argument::input(values.weight), bias = Argument::input(values.bias);
      const Argument initial_state = Argument::input(state);
      const Argument y = Argument::output({1, end - begin, c.channels});
      const Argument final_state = Argument::output(c.state_shape());
      hax_causal_conv1d_forward_args args = {};
      args.x = x.arg();
      args.weight = weight.arg();
      args.bias = bias.arg();
      args.initial_state = initial_state.arg();
      args.y = y.arg();
      args.final_state = final_state.arg();
      args.activation = HAX_ACTIVATION_SILU;
      HAX_RUN(causal_conv1d_forward, context, args);
      parts.push_back(y.array());
      state = final_state.array();
    }
    EXPECT_TRUE(expect_close("y", concat_axis(parts, 1), whole.y, 1e-5)) << "cut at " << cut;
    EXPECT_TRUE(expect_close("final_state", state, whole.final_state, 1e-5)) << "cut at " << cut;
  }
}

TEST(CausalConv1d, Golden) {
  const TestContext context;
  const Safetensors golden(golden_path("golden_ops.safetensors"));
  for (const std::string name :
       {"causal_conv1d_silu", "causal_conv1d_short", "causal_conv1d_linear_state"}) {
    SCOPED_TRACE(name);
    const auto get = [&](const std::string& tensor) {
      return golden.load_if_present(name + "/" + tensor);
    };
    const auto in = [&](const std::string& tensor) { return Argument::input(get(tensor)); };
    const auto out = [&](const std::string& tensor) {
      const Array like = get(tensor);
      return like.present() ? Argument::output(like.shape) : Argument();
    };
    const Argument x = in("x"), weight = in("weight"), bias = in("bias");
    const Argument initial_state = in("initial_state"), dy = in("grad_y");
    const Argument dfinal_state = in("grad_final_state");
    const int activation =
        name == "causal_conv1d_linear_state" ? HAX_ACTIVATION_NONE : HAX_ACTIVATION_SILU;
    const Argument y = out("out_y"), final_state = out("out_final_state");
    hax_causal_conv1d_forward_args forward = {};
    forward.x = x.arg();
    forward.weight = weight.arg();
    forward.bias = bias.arg();
    forward.initial_state = initial_state.arg();
    forward.y = y.arg();
    forward.final_state = final_state.arg();
    forward.activation = activation;
    HAX_RUN(causal_conv1d_forward, context, forward);
    EXPECT_TRUE(expect_close("y", y.array(), get("out_y"), 1e-5));
    EXPECT_TRUE(expect_close("final_state", final_state.array(), get("out_final_state"), 1e-5));

    const Argument dx = out("d_x"), dweight = out("d_weight"), dbias = out("d_bias");
    const Argument dinitial_state = out("d_initial_state");
    hax_causal_conv1d_backward_args backward = {};
    backward.x = x.arg();
    backward.weight = weight.arg();
    backward.bias = bias.arg();
    backward.initial_state = initial_state.arg();
    backward.dy = dy.arg();
    backward.dfinal_state = dfinal_state.arg();
    backward.dx = dx.arg();
    backward.dweight = dweight.arg();
    backward.dbias = dbias.arg();
    backward.dinitial_state = dinitial_state.arg();
    backward.activation = activation;
    HAX_RUN(causal_conv1d_backward, context, backward);
    EXPECT_TRUE(expect_close("dx", dx.array(), get("d_x"), 1e-5));
    EXPECT_TRUE(expect_close("dweight", dweight.array(), get("d_weight"), 1e-5));
    EXPECT_TRUE(expect_close("dbias", dbias.array(), get("d_bias"), 1e-5));
    if (dinitial_state.present()) {
      EXPECT_TRUE(
          expect_close("dinitial_state", dinitial_state.array(), get("d_initial_state"), 1e-5));
    }
  }
}

}  // namespace
}  // namespace hax_test
