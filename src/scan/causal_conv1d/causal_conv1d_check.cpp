#include "scan/causal_conv1d/causal_conv1d.hpp"

namespace hax::causal_conv1d {
namespace {

bool check_activation(const Checker& check, int32_t activation) {
  check.supported(activation == HAX_ACTIVATION_NONE || activation == HAX_ACTIVATION_SILU,
                  "activation: expected HAX_ACTIVATION_NONE (0) or HAX_ACTIVATION_SILU (1), got ",
                  activation);
  return activation == HAX_ACTIVATION_SILU;
}

// The axes and types that forward, backward and step share, bound by x and weight.
struct Shapes {
  Axis batch{"B"}, length, channels{"D"}, width{"W"}, history{"W-1"};
  TypeSlot activation{"x"};

  explicit Shapes(const char* tokens) : length{tokens} {}

  void bind(Checker& check, const hax_tensor* x_arg, const hax_tensor* weight_arg, Tensor& x,
            Tensor& weight) {
    x = check.input(x_arg, "x", activation, {&batch, &length, &channels});
    weight = check.input(weight_arg, "weight", {activation, Type::fp32}, {&channels, &width});
    check.range(width, kMinWidth, kMaxWidth);
    history.value = width.value - 1;
  }
};

}  // namespace

ForwardParams Forward::check(Checker& check, const Args& args) {
  Shapes s("L");
  ForwardParams p;
  s.bind(check, args.x, args.weight, p.x, p.weight);
  p.channels = s.channels.value;
  p.width = static_cast<int>(s.width.value);
  p.silu = check_activation(check, args.activation);
  p.bias = check.optional_input(args.bias, "bias", {Type::fp32}, {&s.channels});
  p.y = check.output(args.y, "y", s.activation, {&s.batch, &s.length, &s.channels});
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length);
  Axis count{p.sequences.packed() ? "S" : "B", p.sequences.count()};
  p.initial_state = check.optional_input(args.initial_state, "initial_state", kFloatTypes,
                                         {&count, &s.history, &s.channels});
  p.final_state = check.optional_output(args.final_state, "final_state", kFloatTypes,
                                        {&count, &s.history, &s.channels});
  p.device = check.device();
  return p;
}

BackwardParams Backward::check(Checker& check, const Args& args) {
  Shapes s("L");
  BackwardParams p;
  s.bind(check, args.x, args.weight, p.x, p.weight);
  p.channels = s.channels.value;
  p.width = static_cast<int>(s.width.value);
  p.silu = check_activation(check, args.activation);
  check.flag(args.deterministic, "deterministic");
  p.bias = check.optional_input(args.bias, "bias", {Type::fp32}, {&s.channels});
  p.dy = check.input(args.dy, "dy", s.activation, {&s.batch, &s.length, &s.channels});
  p.dx = check.optional_output(args.dx, "dx", s.activation, {&s.batch, &s.length, &s.channels});
  p.dweight = check.optional_output(args.dweight, "dweight", {Type::fp32}, {&s.channels, &s.width});
  p.dbias = check.optional_output(args.dbias, "dbias", {Type::fp32}, {&s.channels});
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length);
  Axis count{p.sequences.packed() ? "S" : "B", p.sequences.count()};
  p.initial_state = check.optional_input(args.initial_state, "initial_state", kFloatTypes,
                                         {&count, &s.history, &s.channels});
  p.dfinal_state = check.optional_input(args.dfinal_state, "dfinal_state", kFloatTypes,
                                        {&count, &s.history, &s.channels});
  p.dinitial_state = check.optional_output(args.dinitial_state, "dinitial_state", kFloatTypes,
                                           {&count, &s.history, &s.channels});
  p.device = check.device();
  return p;
}

StepParams Step::check(Checker& check, const Args& args) {
  Shapes s("T");
  StepParams p;
  s.bind(check, args.x, args.weight, p.x, p.weight);
  p.batch = s.batch.value;
  p.tokens = s.length.value;
  p.channels = s.channels.value;
  p.width = static_cast<int>(s.width.value);
  p.silu = check_activation(check, args.activation);
  p.bias = check.optional_input(args.bias, "bias", {Type::fp32}, {&s.channels});
  p.y = check.output(args.y, "y", s.activation, {&s.batch, &s.length, &s.channels});
  Axis slots{"slots"};
  p.state = check.output(args.state, "state", kFloatTypes, {&slots, &s.history, &s.channels});
  p.slots = check_slots(check, args.src_slots, args.dst_slots, s.batch, s.length, slots);
  p.device = check.device();
  return p;
}

}  // namespace hax::causal_conv1d
