#include "scan/selective_scan/selective_scan.hpp"

namespace hax::selective_scan {
namespace {

// Axes and types that forward, backward and step share.
struct Shapes {
  Axis batch{"B"}, length, channels{"D"}, states{"N"}, groups{"G"};
  TypeSlot activation{"u"};

  explicit Shapes(const char* tokens) : length{tokens} {}
};

template <class Args>
void check_inputs(Checker& check, const Args& args, Shapes& s, Inputs& in) {
  in.u = check.input(args.u, "u", s.activation, {&s.batch, &s.length, &s.channels});
  in.delta = check.input(args.delta, "delta", s.activation, {&s.batch, &s.length, &s.channels});
  in.A = check.input(args.A, "A", {Type::fp32}, {&s.channels, &s.states});
  check.range(s.states, 1, kMaxScanStates);
  in.B = check.input(args.B, "B", s.activation, {&s.batch, &s.length, &s.groups, &s.states});
  check.divides(s.groups, s.channels);
  in.C = check.input(args.C, "C", s.activation, {&s.batch, &s.length, &s.groups, &s.states});
  in.D = check.optional_input(args.D, "D", {Type::fp32}, {&s.channels});
  in.z = check.optional_input(args.z, "z", s.activation, {&s.batch, &s.length, &s.channels});
  in.delta_bias = check.optional_input(args.delta_bias, "delta_bias", {Type::fp32}, {&s.channels});
  in.softplus = check.flag(args.delta_softplus, "delta_softplus");
  in.batch = s.batch.value;
  in.length = s.length.value;
  in.channels = s.channels.value;
  in.states = s.states.value;
  in.groups = s.groups.value;
}

}  // namespace

ForwardParams Forward::check(Checker& check, const Args& args) {
  Shapes s("L");
  ForwardParams p;
  check_inputs(check, args, s, p);
  p.y = check.output(args.y, "y", s.activation, {&s.batch, &s.length, &s.channels});
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length);
  Axis count{p.sequences.packed() ? "S" : "B", p.sequences.count()};
  p.initial_state = check.optional_input(args.initial_state, "initial_state", kFloatTypes,
                                         {&count, &s.channels, &s.states});
  p.final_state = check.optional_output(args.final_state, "final_state", kFloatTypes,
                                        {&count, &s.channels, &s.states});
  p.checkpoints =
      check_checkpoints(check, args.checkpoints, args.checkpoint_every, s.batch, s.length,
                        [&](Axis& batch, Axis& checkpoints) {
                          return check.output(args.checkpoints, "checkpoints", kFloatTypes,
                                              {&batch, &checkpoints, &s.channels, &s.states});
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
                                         {&count, &s.channels, &s.states});
  p.checkpoints =
      check_checkpoints(check, args.checkpoints, args.checkpoint_every, s.batch, s.length,
                        [&](Axis& batch, Axis& checkpoints) {
                          return check.input(args.checkpoints, "checkpoints", {Type::fp32},
                                             {&batch, &checkpoints, &s.channels, &s.states});
                        });
  p.dy = check.input(args.dy, "dy", s.activation, {&s.batch, &s.length, &s.channels});
  p.dfinal_state = check.optional_input(args.dfinal_state, "dfinal_state", kFloatTypes,
                                        {&count, &s.channels, &s.states});

  check.expect(!args.dD || args.D, "dD: expected NULL, as D is NULL");
  check.expect(!args.dz || args.z, "dz: expected NULL, as z is NULL");
  check.expect(!args.ddelta_bias || args.delta_bias,
               "ddelta_bias: expected NULL, as delta_bias is NULL");
  p.du = check.optional_output(args.du, "du", s.activation, {&s.batch, &s.length, &s.channels});
  p.ddelta = check.optional_output(args.ddelta, "ddelta", s.activation,
                                   {&s.batch, &s.length, &s.channels});
  p.dA = check.optional_output(args.dA, "dA", {Type::fp32}, {&s.channels, &s.states});
  p.dB = check.optional_output(args.dB, "dB", s.activation,
                               {&s.batch, &s.length, &s.groups, &s.states});
  p.dC = check.optional_output(args.dC, "dC", s.activation,
                               {&s.batch, &s.length, &s.groups, &s.states});
  p.dD = check.optional_output(args.dD, "dD", {Type::fp32}, {&s.channels});
  p.dz = check.optional_output(args.dz, "dz", s.activation, {&s.batch, &s.length, &s.channels});
  p.ddelta_bias =
      check.optional_output(args.ddelta_bias, "ddelta_bias", {Type::fp32}, {&s.channels});
  p.dinitial_state = check.optional_output(args.dinitial_state, "dinitial_state", kFloatTypes,
                                           {&count, &s.channels, &s.states});
  p.device = check.device();
  return p;
}

StepParams Step::check(Checker& check, const Args& args) {
  Shapes s("T");
  StepParams p;
  check_inputs(check, args, s, p);
  p.tokens = s.length.value;
  Axis slots{"slots"};
  p.state = check.output(args.state, "state", kFloatTypes, {&slots, &s.channels, &s.states});
  p.slots = check_slots(check, args.src_slots, args.dst_slots, s.batch, s.length, slots);
  p.y = check.output(args.y, "y", s.activation, {&s.batch, &s.length, &s.channels});
  p.device = check.device();
  return p;
}

}  // namespace hax::selective_scan
