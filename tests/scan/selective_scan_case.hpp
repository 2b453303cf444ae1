// Random cases of selective_scan, run through the C functions and through the oracle.
#pragma once

#include "scan/scan_case.hpp"

namespace hax_test {

struct SelectiveScanCase {
  int64_t batch = 2, length = 37, channels = 9, states = 5, groups = 1;
  bool softplus = true, D = true, z = true, bias = true, initial_state = true;
  std::vector<int64_t> cu_seqlens = {};
  int64_t checkpoint_every = 0;
  ScanOptions options = {};
  uint64_t seed = 1;

  std::vector<int64_t> tokens_shape() const { return {batch, length, channels}; }
  std::vector<int64_t> state_shape() const {
    return {sequence_count(batch, cu_seqlens), channels, states};
  }

  // Inputs as the operator sees them: rounded to their types.
  SelectiveScanArgs values() const {
    const hax_data_type type = options.type;
    SelectiveScanArgs a;
    a.u = round_to(random_normal(tokens_shape(), seed), type);
    a.delta = round_to(softplus ? random_normal(tokens_shape(), seed + 1, -1.0)
                                : random_uniform(tokens_shape(), seed + 1, 0.0, 1.0),
                       type);
    a.A = round_to(random_uniform({channels, states}, seed + 2, -2.0, -0.05), kFp32);
    a.B = round_to(random_normal({batch, length, groups, states}, seed + 3), type);
    a.C = round_to(random_normal({batch, length, groups, states}, seed + 4), type);
    if (D) a.D = round_to(random_normal({channels}, seed + 5), kFp32);
    if (z) a.z = round_to(random_normal(tokens_shape(), seed + 6), type);
    if (bias) a.delta_bias = round_to(random_normal({channels}, seed + 7, 0.2, 0.1), kFp32);
    if (initial_state) {
      a.initial_state = round_to(random_normal(state_shape(), seed + 8), options.state_type);
    }
    a.delta_softplus = softplus;
    a.checkpoint_every = checkpoint_every;
    a.cu_seqlens = cu_seqlens;
    return a;
  }
  Array dy() const { return round_to(random_normal(tokens_shape(), seed + 9), options.type); }
  Array dfinal_state() const {
    return round_to(random_normal(state_shape(), seed + 10), options.state_type);
  }
};

inline std::string describe(const SelectiveScanCase& c) {
  std::string text = "B" + std::to_string(c.batch) + " L" + std::to_string(c.length) + " D" +
                     std::to_string(c.channels) + " N" + std::to_string(c.states) + " G" +
                     std::to_string(c.groups) + " " + name_of(c.options.type) + " state " +
                     name_of(c.options.state_type) + " " + name_of(c.options.layout);
  if (!c.cu_seqlens.empty()) text += " packed " + to_string(c.cu_seqlens);
  if (c.checkpoint_every) text += " checkpoints every " + std::to_string(c.checkpoint_every);
  return text;
}

// The arguments forward and backward share, alive as long as this is.
struct SelectiveScanInputs {
  SelectiveScanInputs(const SelectiveScanArgs& a, const ScanOptions& o)
      : u(Argument::input(a.u, o.type, o.layout)),
        delta(Argument::input(a.delta, o.type, o.layout)),
        A(Argument::input(a.A, kFp32, o.layout)),
        B(Argument::input(a.B, o.type, o.layout)),
        C(Argument::input(a.C, o.type, o.layout)),
        D(Argument::input(a.D, kFp32, o.layout)),
        z(Argument::input(a.z, o.type, o.layout)),
        delta_bias(Argument::input(a.delta_bias, kFp32, o.layout)),
        initial_state(Argument::input(a.initial_state, o.state_type, o.layout)),
        cu_seqlens(a.cu_seqlens.empty() ? Argument()
                                        : Argument::indices(a.cu_seqlens, o.index_type)),
        softplus(a.delta_softplus) {}

  template <class Args>
  void bind_step(Args& args) const {
    args.u = u.arg();
    args.delta = delta.arg();
    args.A = A.arg();
    args.B = B.arg();
    args.C = C.arg();
    args.D = D.arg();
    args.z = z.arg();
    args.delta_bias = delta_bias.arg();
    args.delta_softplus = softplus;
  }
  template <class Args>
  void bind(Args& args) const {
    bind_step(args);
    args.cu_seqlens = cu_seqlens.arg();
    args.initial_state = initial_state.arg();
  }

  Argument u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens;
  bool softplus;
};

// y, final_state and, where a.checkpoint_every is given, checkpoints.
inline NamedArguments run_selective_scan(const SelectiveScanArgs& a, const ScanOptions& o,
                                         const hax_context* context) {
  const SelectiveScanInputs in(a, o);
  const int64_t batch = a.u.size(0), length = a.u.size(1);
  const int64_t channels = a.A.size(0), states = a.A.size(1);
  NamedArguments out;
  out["y"] = Argument::output(a.u.shape, o.type, o.layout);
  out["final_state"] = Argument::output({sequence_count(batch, a.cu_seqlens), channels, states},
                                        o.state_type, o.layout);
  hax_selective_scan_forward_args args = {};
  in.bind(args);
  args.y = out["y"].arg();
  args.final_state = out["final_state"].arg();
  if (a.checkpoint_every > 0) {
    out["checkpoints"] = Argument::output({batch, length / a.checkpoint_every, channels, states},
                                          o.state_type, o.layout);
    args.checkpoints = out["checkpoints"].arg();
    args.checkpoint_every = a.checkpoint_every;
  }
  EXPECT_EQ(run(hax_selective_scan_forward_workspace, hax_selective_scan_forward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  return out;
}

// All gradients. checkpoints: absent, or fp32 states as forward wrote them.
inline NamedArguments run_selective_scan_backward(const SelectiveScanArgs& a, const Array& dy,
                                                  const Array& dfinal_state, const ScanOptions& o,
                                                  const hax_context* context,
                                                  const Argument& checkpoints = {}) {
  const SelectiveScanInputs in(a, o);
  const Argument dy_in = Argument::input(dy, o.type, o.layout);
  const Argument dfinal_in = Argument::input(dfinal_state, o.state_type, o.layout);
  NamedArguments out;
  out["du"] = Argument::output(a.u.shape, o.type, o.layout);
  out["ddelta"] = Argument::output(a.u.shape, o.type, o.layout);
  out["dA"] = Argument::output(a.A.shape, kFp32, o.layout);
  out["dB"] = Argument::output(a.B.shape, o.type, o.layout);
  out["dC"] = Argument::output(a.B.shape, o.type, o.layout);
  if (a.D.present()) out["dD"] = Argument::output(a.D.shape, kFp32, o.layout);
  if (a.z.present()) out["dz"] = Argument::output(a.u.shape, o.type, o.layout);
  if (a.delta_bias.present()) {
    out["ddelta_bias"] = Argument::output(a.delta_bias.shape, kFp32, o.layout);
  }
  out["dinitial_state"] =
      Argument::output({sequence_count(a.u.size(0), a.cu_seqlens), a.A.size(0), a.A.size(1)},
                       o.state_type, o.layout);
  const auto of = [&](const char* name) { return out.count(name) ? out.at(name).arg() : nullptr; };
  hax_selective_scan_backward_args args = {};
  in.bind(args);
  args.dy = dy_in.arg();
  args.dfinal_state = dfinal_in.arg();
  args.checkpoints = checkpoints.arg();
  args.checkpoint_every = checkpoints.present() ? a.checkpoint_every : 0;
  args.du = of("du");
  args.ddelta = of("ddelta");
  args.dA = of("dA");
  args.dB = of("dB");
  args.dC = of("dC");
  args.dD = of("dD");
  args.dz = of("dz");
  args.ddelta_bias = of("ddelta_bias");
  args.dinitial_state = of("dinitial_state");
  EXPECT_EQ(run(hax_selective_scan_backward_workspace, hax_selective_scan_backward, context, args),
            HAX_SUCCESS)
      << hax_last_error();
  return out;
}

inline NamedArrays by_name(const SelectiveScanGrads& g, const SelectiveScanArgs& a) {
  NamedArrays named = {{"du", g.du}, {"ddelta", g.ddelta}, {"dA", g.dA},
                       {"dB", g.dB}, {"dC", g.dC},         {"dinitial_state", g.dinitial_state}};
  if (a.D.present()) named["dD"] = g.dD;
  if (a.z.present()) named["dz"] = g.dz;
  if (a.delta_bias.present()) named["ddelta_bias"] = g.ddelta_bias;
  return named;
}

// Forward and backward of a case against the oracle.
inline void expect_matches_oracle(const SelectiveScanCase& c, const hax_context* context) {
  const SelectiveScanArgs a = c.values();
  const ScanResult want = oracle_selective_scan(a);
  const NamedArguments got = run_selective_scan(a, c.options, context);
  expect_results(got, {{"y", want.y}, {"final_state", want.final_state}});
  if (c.checkpoint_every > 0) {
    const Array states =
        gather_checkpoints(got.at("checkpoints"), c.length, c.checkpoint_every, c.cu_seqlens);
    EXPECT_TRUE(expect_close("checkpoints", states, want.checkpoints,
                             scan_tolerance(c.options.state_type)));
  }
  expect_results(run_selective_scan_backward(a, c.dy(), c.dfinal_state(), c.options, context),
                 by_name(oracle_selective_scan_backward(a, c.dy(), c.dfinal_state()), a),
                 scan_backward_tolerance(c.options.type));
}

}  // namespace hax_test
