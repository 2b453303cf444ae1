// Random cases of ssd, run through the C functions and through the oracle.
#pragma once

#include <cmath>

#include "scan/scan_case.hpp"
#include "support/device_copy.hpp"

namespace hax_test {

struct SsdCase {
  int64_t batch = 2, length = 37, heads = 3, width = 5, states = 6, groups = 1;
  int skip_rank = 1;  // axes of D; 0: none
  bool z = true, bias = true, initial_state = true;
  double dt_min = 0.0, dt_max = 0.0;
  std::vector<int64_t> cu_seqlens = {};
  int64_t checkpoint_every = 0;
  ScanOptions options = {};
  uint64_t seed = 1;

  std::vector<int64_t> tokens_shape() const { return {batch, length, heads, width}; }
  std::vector<int64_t> state_shape() const {
    return {sequence_count(batch, cu_seqlens), heads, width, states};
  }

  // Inputs as the operator sees them: rounded to their types.
  SsdArgs values() const {
    const hax_data_type type = options.type;
    SsdArgs a;
    a.x = round_to(random_normal(tokens_shape(), seed), type);
    a.dt = round_to(random_normal({batch, length, heads}, seed + 1, -1.0), options.dt_type);
    a.A = round_to(random_uniform({heads}, seed + 2, -2.0, -0.05), kFp32);
    a.B = round_to(random_normal({batch, length, groups, states}, seed + 3), type);
    a.C = round_to(random_normal({batch, length, groups, states}, seed + 4), type);
    if (skip_rank == 1) a.D = round_to(random_normal({heads}, seed + 5), kFp32);
    if (skip_rank == 2) a.D = round_to(random_normal({heads, width}, seed + 5), kFp32);
    if (z) a.z = round_to(random_normal(tokens_shape(), seed + 6), type);
    if (bias) a.dt_bias = round_to(random_normal({heads}, seed + 7, 0.2, 0.1), kFp32);
    if (initial_state) {
      a.initial_state = round_to(random_normal(state_shape(), seed + 8), options.state_type);
    }
    a.dt_min = round_to(dt_min, kFp32);
    if (dt_max > 0.0) a.dt_max = round_to(dt_max, kFp32);
    a.checkpoint_every = checkpoint_every;
    a.cu_seqlens = cu_seqlens;
    return a;
  }
  Array dy() const { return round_to(random_normal(tokens_shape(), seed + 9), options.type); }
  Array dfinal_state() const {
    return round_to(random_normal(state_shape(), seed + 10), options.state_type);
  }
};

inline std::string describe(const SsdCase& c) {
  std::string text = "B" + std::to_string(c.batch) + " L" + std::to_string(c.length) + " H" +
                     std::to_string(c.heads) + " P" + std::to_string(c.width) + " N" +
                     std::to_string(c.states) + " G" + std::to_string(c.groups) + " " +
                     name_of(c.options.type) + " dt " + name_of(c.options.dt_type) + " state " +
                     name_of(c.options.state_type) + " " + name_of(c.options.layout);
  if (!c.cu_seqlens.empty()) text += " packed " + to_string(c.cu_seqlens);
  if (c.checkpoint_every) text += " checkpoints every " + std::to_string(c.checkpoint_every);
  return text;
}

// The arguments forward and backward share, alive as long as this is.
struct SsdInputs {
  SsdInputs(const SsdArgs& a, const ScanOptions& o)
      : x(Argument::input(a.x, o.type, o.layout)),
        dt(Argument::input(a.dt, o.dt_type, o.layout)),
        A(Argument::input(a.A, kFp32, o.layout)),
        B(Argument::input(a.B, o.type, o.layout)),
        C(Argument::input(a.C, o.type, o.layout)),
        D(Argument::input(a.D, kFp32, o.layout)),
        z(Argument::input(a.z, o.type, o.layout)),
        dt_bias(Argument::input(a.dt_bias, kFp32, o.layout)),
        initial_state(Argument::input(a.initial_state, o.state_type, o.layout)),
        cu_seqlens(a.cu_seqlens.empty() ? Argument()
                                        : Argument::indices(a.cu_seqlens, o.index_type)),
        dt_min(static_cast<float>(a.dt_min)),
        dt_max(std::isinf(a.dt_max) ? 0.0f : static_cast<float>(a.dt_max)) {}

  template <class Args>
  void bind_step(Args& args) const {
    args.x = x.arg();
    args.dt = dt.arg();
    args.A = A.arg();
    args.B = B.arg();
    args.C = C.arg();
    args.D = D.arg();
    args.z = z.arg();
    args.dt_bias = dt_bias.arg();
    args.dt_min = dt_min;
    args.dt_max = dt_max;
  }
  template <class Args>
  void bind(Args& args) const {
    bind_step(args);
    args.cu_seqlens = cu_seqlens.arg();
    args.initial_state = initial_state.arg();
  }

  Argument x, dt, A, B, C, D, z, dt_bias, initial_state, cu_seqlens;
  float dt_min, dt_max;
};

inline std::vector<int64_t> state_shape_of(const SsdArgs& a) {
  return {sequence_count(a.x.size(0), a.cu_seqlens), a.x.size(2), a.x.size(3), a.B.size(3)};
}

// y, final_state and, where a.checkpoint_every is given, checkpoints.
inline NamedArguments run_ssd(const SsdArgs& a, const ScanOptions& o, const hax_context* context) {
  const SsdInputs in(a, o);
  NamedArguments out;
  out["y"] = Argument::output(a.x.shape, o.type, o.layout);
  out["final_state"] = Argument::output(state_shape_of(a), o.state_type, o.layout);
  hax_ssd_forward_args args = {};
  in.bind(args);
  args.y = out["y"].arg();
  args.final_state = out["final_state"].arg();
  if (a.checkpoint_every > 0) {
    out["checkpoints"] = Argument::output(
        {a.x.size(0), a.x.size(1) / a.checkpoint_every, a.x.size(2), a.x.size(3), a.B.size(3)},
        o.state_type, o.layout);
    args.checkpoints = out["checkpoints"].arg();
    args.checkpoint_every = a.checkpoint_every;
  }
  EXPECT_EQ(run(hax_ssd_forward_workspace, hax_ssd_forward, context, args), HAX_SUCCESS)
      << hax_last_error();
  return out;
}

// All gradients. checkpoints: absent, or fp32 states as forward wrote them.
inline NamedArguments run_ssd_backward(const SsdArgs& a, const Array& dy, const Array& dfinal_state,
                                       const ScanOptions& o, const hax_context* context,
                                       const Argument& checkpoints = {}) {
  const SsdInputs in(a, o);
  const Argument dy_in = Argument::input(dy, o.type, o.layout);
  const Argument dfinal_in = Argument::input(dfinal_state, o.state_type, o.layout);
  NamedArguments out;
  out["dx"] = Argument::output(a.x.shape, o.type, o.layout);
  out["ddt"] = Argument::output(a.dt.shape, o.dt_type, o.layout);
  out["dA"] = Argument::output(a.A.shape, kFp32, o.layout);
  out["dB"] = Argument::output(a.B.shape, o.type, o.layout);
  out["dC"] = Argument::output(a.B.shape, o.type, o.layout);
  if (a.D.present()) out["dD"] = Argument::output(a.D.shape, kFp32, o.layout);
  if (a.z.present()) out["dz"] = Argument::output(a.x.shape, o.type, o.layout);
  if (a.dt_bias.present()) out["ddt_bias"] = Argument::output(a.dt_bias.shape, kFp32, o.layout);
  out["dinitial_state"] = Argument::output(state_shape_of(a), o.state_type, o.layout);
  const auto of = [&](const char* name) { return out.count(name) ? out.at(name).arg() : nullptr; };
  hax_ssd_backward_args args = {};
  in.bind(args);
  args.dy = dy_in.arg();
  args.dfinal_state = dfinal_in.arg();
  args.checkpoints = checkpoints.arg();
  args.checkpoint_every = checkpoints.present() ? a.checkpoint_every : 0;
  args.dx = of("dx");
  args.ddt = of("ddt");
  args.dA = of("dA");
  args.dB = of("dB");
  args.dC = of("dC");
  args.dD = of("dD");
  args.dz = of("dz");
  args.ddt_bias = of("ddt_bias");
  args.dinitial_state = of("dinitial_state");
  EXPECT_EQ(run(hax_ssd_backward_workspace, hax_ssd_backward, context, args), HAX_SUCCESS)
      << hax_last_error();
  return out;
}

inline NamedArrays by_name(const SsdGrads& g, const SsdArgs& a) {
  NamedArrays named = {{"dx", g.dx}, {"ddt", g.ddt}, {"dA", g.dA},
                       {"dB", g.dB}, {"dC", g.dC},   {"dinitial_state", g.dinitial_state}};
  if (a.D.present()) named["dD"] = g.dD;
  if (a.z.present()) named["dz"] = g.dz;
  if (a.dt_bias.present()) named["ddt_bias"] = g.ddt_bias;
  return named;
}

// Forward and backward of a case against the oracle.
// On CUDA, products of 16-bit activations round their factors to that type, whatever the type of the result.
inline double ssd_backward_tolerance(hax_data_type activation) {
  if (!tests_use_cuda()) return 0.0;
  if (activation.bits == 32) return 2e-5;
  return activation.code == HAX_TYPE_BFLOAT ? 1e-2 : 2e-3;
}

// Parameters' gradients are sums over all tokens, whose terms may nearly cancel, but not their rounding.
inline void expect_gradients(const NamedArguments& got, const NamedArrays& want,
                             hax_data_type activation) {
  const double tolerance = ssd_backward_tolerance(activation);
  NamedArrays parameters, others = want;
  for (const char* name : {"dA", "dD", "ddt_bias"}) {
    if (auto node = others.extract(name)) parameters.insert(std::move(node));
  }
  expect_results(got, others, tolerance);
  expect_results(got, parameters, activation.bits == 16 ? 2 * tolerance : tolerance);
}

inline void expect_backward_matches_oracle(const SsdCase& c, const hax_context* context) {
  const SsdArgs a = c.values();
  expect_gradients(run_ssd_backward(a, c.dy(), c.dfinal_state(), c.options, context),
                   by_name(oracle_ssd_backward(a, c.dy(), c.dfinal_state()), a), c.options.type);
}

inline void expect_matches_oracle(const SsdCase& c, const hax_context* context) {
  const SsdArgs a = c.values();
  const ScanResult want = oracle_ssd(a);
  const NamedArguments got = run_ssd(a, c.options, context);
  expect_results(got, {{"y", want.y}, {"final_state", want.final_state}});
  if (c.checkpoint_every > 0) {
    const Array states =
        gather_checkpoints(got.at("checkpoints"), c.length, c.checkpoint_every, c.cu_seqlens);
    EXPECT_TRUE(expect_close("checkpoints", states, want.checkpoints,
                             scan_tolerance(c.options.state_type)));
  }
  expect_backward_matches_oracle(c, context);
}

}  // namespace hax_test
