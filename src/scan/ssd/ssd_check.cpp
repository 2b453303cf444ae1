#include <limits>

#include "scan/ssd/ssd.hpp"

namespace hax::ssd {
namespace {

// Axes and types that forward, backward and step share.
struct Shapes {
  Axis batch{"B"}, length, heads{"H"}, width{"P"}, states{"N"}, groups{"G"};
  TypeSlot activation{"x"};

  explicit Shapes(const char* tokens) : length{tokens} {}
};

// D and dD are (H) or (H, P).
template <class Check>
Tensor check_skip(const hax_tensor* given, Shapes& s, Check&& check) {
  if (!given) return {};
  if (given->ndim == 2) return check({&s.heads, &s.width});
  return check({&s.heads});
}

template <class Args>
void check_inputs(Checker& check, const Args& args, Shapes& s, Inputs& in) {
  in.x = check.input(args.x, "x", s.activation, {&s.batch, &s.length, &s.heads, &s.width});
  check.range(s.width, 1, kMaxHeadWidth);
  in.dt = check.input(args.dt, "dt", {s.activation, Type::fp32}, {&s.batch, &s.length, &s.heads});
  in.A = check.input(args.A, "A", {Type::fp32}, {&s.heads});
  in.B = check.input(args.B, "B", s.activation, {&s.batch, &s.length, &s.groups, &s.states});
  check.range(s.states, 1, kMaxScanStates);
  check.divides(s.groups, s.heads);
  in.C = check.input(args.C, "C", s.activation, {&s.batch, &s.length, &s.groups, &s.states});
  in.D = check_skip(args.D, s, [&](Checker::Shape shape) {
    return check.input(args.D, "D", {Type::fp32}, shape);
  });
  in.z = check.optional_input(args.z, "z", s.activation, {&s.batch, &s.length, &s.heads, &s.width});
  in.dt_bias = check.optional_input(args.dt_bias, "dt_bias", {Type::fp32}, {&s.heads});
  check.expect(args.dt_min >= 0.0f, "dt_min: expected at least 0, got ", args.dt_min);
  check.expect(args.dt_max == 0.0f || args.dt_max >= args.dt_min,
               "dt_max: expected 0 or at least dt_min=", args.dt_min, ", got ", args.dt_max);
  in.dt_min = args.dt_min;
  in.dt_max = args.dt_max == 0.0f ? std::numeric_limits<float>::infinity() : args.dt_max;
  in.batch = s.batch.value;
  in.length = s.length.value;
  in.heads = s.heads.value;
  in.width = s.width.value;
  in.states = s.states.value;
  in.groups = s.groups.value;
}

}  // namespace

ForwardParams Forward::check(Checker& check, const Args& args) {
  Shapes s("L");
  ForwardParams p;
  check_inputs(check, args, s, p);
  p.y = check.output(args.y, "y", s.activation, {&s.batch, &s.length, &s.heads, &s.width});
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length);
  Axis count{p.sequences.packed() ? "S" : "B", p.sequences.count()};
  p.initial_state = check.optional_input(args.initial_state, "initial_state", kFloatTypes,
                                         {&count, &s.heads, &s.width, &s.states});
  p.final_state = check.optional_output(args.final_state, "final_state", kFloatTypes,
                                        {&count, &s.heads, &s.width, &s.states});
  p.checkpoints = check_checkpoints(check, args.checkpoints, args.checkpoint_every, s.batch,
                                    s.length, [&](Axis& batch, Axis& checkpoints) {
                                      return check.output(
                                          args.checkpoints, "checkpoints", kFloatTypes,
                                          {&batch, &checkpoints, &s.heads, &s.width, &s.states});
                                    });
  p.device = check.device();
  return p;
}

BackwardParams Backward::check(Checker& check, const Args& args) {
  Shapes s("L");
  BackwardParams p;
  check_inputs(check, args, s, p);
  check.flag(args.deterministic, "deterministic");
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length);
  Axis count{p.sequences.packed() ? "S" : "B", p.sequences.count()};
  p.initial_state = check.optional_input(args.initial_state, "initial_state", kFloatTypes,
                                         {&count, &s.heads, &s.width, &s.states});
  p.checkpoints =
      check_checkpoints(check, args.checkpoints, args.checkpoint_every, s.batch, s.length,
                        [&](Axis& batch, Axis& checkpoints) {
                          return check.input(args.checkpoints, "checkpoints", {Type::fp32},
                                             {&batch, &checkpoints, &s.heads, &s.width, &s.states});
                        });
  p.dy = check.input(args.dy, "dy", s.activation, {&s.batch, &s.length, &s.heads, &s.width});
  p.dfinal_state = check.optional_input(args.dfinal_state, "dfinal_state", kFloatTypes,
                                        {&count, &s.heads, &s.width, &s.states});

  check.expect(!args.dD || args.D, "dD: expected NULL, as D is NULL");
  check.expect(!args.dD || args.dD->ndim == args.D->ndim, "dD: expected the shape of D, with ndim ",
               p.D.ndim, ", got ndim ", args.dD ? args.dD->ndim : 0);
  check.expect(!args.dz || args.z, "dz: expected NULL, as z is NULL");
  check.expect(!args.ddt_bias || args.dt_bias, "ddt_bias: expected NULL, as dt_bias is NULL");
  p.dx =
      check.optional_output(args.dx, "dx", s.activation, {&s.batch, &s.length, &s.heads, &s.width});
  TypeSlot dt_type{"dt", p.dt.type};
  p.ddt = check.optional_output(args.ddt, "ddt", dt_type, {&s.batch, &s.length, &s.heads});
  p.dA = check.optional_output(args.dA, "dA", {Type::fp32}, {&s.heads});
  p.dB = check.optional_output(args.dB, "dB", s.activation,
                               {&s.batch, &s.length, &s.groups, &s.states});
  p.dC = check.optional_output(args.dC, "dC", s.activation,
                               {&s.batch, &s.length, &s.groups, &s.states});
  p.dD = check_skip(args.dD, s, [&](Checker::Shape shape) {
    return check.output(args.dD, "dD", {Type::fp32}, shape);
  });
  p.dz =
      check.optional_output(args.dz, "dz", s.activation, {&s.batch, &s.length, &s.heads, &s.width});
  p.ddt_bias = check.optional_output(args.ddt_bias, "ddt_bias", {Type::fp32}, {&s.heads});
  p.dinitial_state = check.optional_output(args.dinitial_state, "dinitial_state", kFloatTypes,
                                           {&count, &s.heads, &s.width, &s.states});
  p.device = check.device();
  return p;
}

StepParams Step::check(Checker& check, const Args& args) {
  Shapes s("T");
  StepParams p;
  check_inputs(check, args, s, p);
  p.tokens = s.length.value;
  Axis slots{"slots"};
  p.state = check.output(args.state, "state", kFloatTypes, {&slots, &s.heads, &s.width, &s.states});
  p.slots = check_slots(check, args.src_slots, args.dst_slots, s.batch, s.length, slots);
  p.y = check.output(args.y, "y", s.activation, {&s.batch, &s.length, &s.heads, &s.width});
  p.device = check.device();
  return p;
}

}  // namespace hax::ssd
