#include "oracle_layer_parts.hpp"
#include "oracle_math.hpp"
#include "oracle_scan.hpp"

namespace hax_test {
namespace {

Conv1dArgs conv_args(const LayerArgs& args, const Array& masked_x) {
  Conv1dArgs conv;
  conv.x = masked_x;
  conv.weight = conv_weight(args);
  conv.bias = param(args, "conv1d.bias");
  conv.silu = true;
  return conv;
}

SelectiveScanArgs scan_args(const LayerArgs& args, const LayerResult& r) {
  const int64_t batch = r.v.size(0), length = r.v.size(1);
  const int64_t rank = args.config.time_step_rank, N = args.config.state_size;
  const Array& projected = r.kept.at("x_proj");
  SelectiveScanArgs scan;
  scan.u = r.v;
  scan.delta = linear(slice_last(projected, 0, rank), param(args, "dt_proj.weight"));
  scan.A = negative_exp(param(args, "A_log"));
  scan.B = slice_last(projected, rank, rank + N).reshape({batch, length, 1, N});
  scan.C = slice_last(projected, rank + N, rank + 2 * N).reshape({batch, length, 1, N});
  scan.D = param(args, "D");
  scan.z = r.kept.at("gate");
  scan.delta_bias = param(args, "dt_proj.bias");
  return scan;
}

}  // namespace

LayerResult mamba_forward(const LayerArgs& args) {
  const int64_t D = args.config.inner_size;
  LayerResult r;
  const Array projected = linear(args.hidden_states, param(args, "in_proj.weight"));
  r.kept["conv_input"] = mask_tokens(args, slice_last(projected, 0, D));
  r.kept["gate"] = slice_last(projected, D, 2 * D);
  r.v = mask_tokens(args, oracle_causal_conv1d(conv_args(args, r.kept["conv_input"])).y);
  r.kept["x_proj"] = linear(r.v, param(args, "x_proj.weight"));
  Array y = oracle_selective_scan(scan_args(args, r)).y;
  if (!args.config.pattern.empty()) {
    r.sparse = run_sparse_branch(args, r.v);
    add_into(y, gate_by_silu(multiply_channels(r.sparse.a, param(args, "E")), r.kept["gate"]));
  }
  r.kept["y"] = y;
  r.out = linear(y, param(args, "out_proj.weight"));
  return r;
}

LayerGrads mamba_backward(const LayerArgs& args, const LayerResult& r, const Array& grad_out,
                          double gate_weight) {
  const int64_t D = args.config.inner_size, rank = args.config.time_step_rank;
  const Array& gate = r.kept.at("gate");
  LayerGrads grads;
  const LinearGrads out = linear_backward(r.kept.at("y"), param(args, "out_proj.weight"), grad_out);
  grads.dparam["out_proj.weight"] = out.dw;
  const Array& dy = out.dx;

  const SelectiveScanArgs scan = scan_args(args, r);
  const SelectiveScanGrads dscan = oracle_selective_scan_backward(scan, dy);
  grads.dparam["A_log"] = multiply(dscan.dA, scan.A);  // dA / dA_log = -exp(A_log) = A
  grads.dparam["D"] = dscan.dD;
  grads.dparam["dt_proj.bias"] = dscan.ddelta_bias;
  Array dv = dscan.du, dgate = dscan.dz;

  if (!args.config.pattern.empty()) {
    const Array& E = param(args, "E");
    const Array dy_gated = gate_by_silu(dy, gate);
    Array& dE = grads.dparam["E"] = zeros_like(E);
    const Array per_token = multiply(dy_gated, r.sparse.a);
    for (size_t i = 0; i < per_token.data.size(); ++i) {
      dE.data[i % static_cast<size_t>(D)] += per_token.data[i];
    }
    Array through_gate = multiply(dy, multiply_channels(r.sparse.a, E));
    for (size_t i = 0; i < gate.data.size(); ++i) {
      through_gate.data[i] *= silu_derivative(gate.data[i]);
    }
    add_into(dgate, through_gate);
    add_into(dv, sparse_branch_backward(args, r.sparse, multiply_channels(dy_gated, E), gate_weight,
                                        grads));
  }

  const Array& projected = r.kept.at("x_proj");
  const LinearGrads dt_proj =
      linear_backward(slice_last(projected, 0, rank), param(args, "dt_proj.weight"), dscan.ddelta);
  grads.dparam["dt_proj.weight"] = dt_proj.dw;
  Array dprojected = zeros_like(projected);
  add_into_last(dprojected, 0, dt_proj.dx);
  add_into_last(dprojected, rank, dscan.dB);
  add_into_last(dprojected, rank + args.config.state_size, dscan.dC);
  const LinearGrads x_proj = linear_backward(r.v, param(args, "x_proj.weight"), dprojected);
  grads.dparam["x_proj.weight"] = x_proj.dw;
  add_into(dv, x_proj.dx);

  const Conv1dGrads conv = oracle_causal_conv1d_backward(conv_args(args, r.kept.at("conv_input")),
                                                         mask_tokens(args, dv));
  grads.dparam["conv1d.weight"] = conv.dweight.reshape(param(args, "conv1d.weight").shape);
  grads.dparam["conv1d.bias"] = conv.dbias;

  const Array dprojection = concat_axis({mask_tokens(args, conv.dx), dgate}, -1);
  const LinearGrads in =
      linear_backward(args.hidden_states, param(args, "in_proj.weight"), dprojection);
  grads.dparam["in_proj.weight"] = in.dw;
  grads.dhidden_states = in.dx;
  return grads;
}

}  // namespace hax_test
