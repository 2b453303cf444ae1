#include "oracle_layer_parts.hpp"
#include "oracle_math.hpp"
#include "oracle_scan.hpp"

namespace hax_test {
namespace {

Conv1dArgs conv_args(const LayerArgs& args, const Array& xBC) {
  Conv1dArgs conv;
  conv.x = xBC;
  conv.weight = conv_weight(args);
  conv.bias = param(args, "conv1d.bias");
  conv.silu = true;
  return conv;
}

SsdArgs ssd_args(const LayerArgs& args, const LayerResult& r) {
  const LayerConfig& c = args.config;
  const int64_t batch = r.v.size(0), length = r.v.size(1);
  const int64_t D = c.inner_size, GN = c.n_groups * c.state_size;
  const Array& xBC = r.kept.at("conv_output");
  const std::vector<int64_t> grouped = {batch, length, c.n_groups, c.state_size};
  SsdArgs ssd;
  ssd.x = r.v.reshape({batch, length, c.num_heads, c.head_dim});
  ssd.dt = r.kept.at("dt");
  ssd.A = negative_exp(param(args, "A_log"));
  ssd.B = slice_last(xBC, D, D + GN).reshape(grouped);
  ssd.C = slice_last(xBC, D + GN, D + 2 * GN).reshape(grouped);
  ssd.D = param(args, "D");
  ssd.dt_bias = param(args, "dt_bias");
  return ssd;
}

// x / sqrt(mean(x^2) + eps) over the last axis.
Array normalize_rms(const Array& x, double epsilon, std::vector<double>& inverse_rms) {
  const int64_t width = x.size(-1);
  Array rows = x.reshape({-1, width});
  inverse_rms.clear();
  for (int64_t r = 0; r < rows.size(0); ++r) {
    double squares = 0.0;
    for (int64_t c = 0; c < width; ++c) squares += rows.at(r, c) * rows.at(r, c);
    const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon);
    inverse_rms.push_back(inverse);
    for (int64_t c = 0; c < width; ++c) rows.at(r, c) *= inverse;
  }
  return rows.reshape(x.shape);
}

Array normalize_rms_backward(const Array& normalized, const std::vector<double>& inverse_rms,
                             const Array& dnormalized) {
  const int64_t width = normalized.size(-1);
  const Array n = normalized.reshape({-1, width});
  Array dx = dnormalized.reshape({-1, width});
  for (int64_t r = 0; r < n.size(0); ++r) {
    double along = 0.0;
    for (int64_t c = 0; c < width; ++c) along += dx.at(r, c) * n.at(r, c);
    along /= static_cast<double>(width);
    for (int64_t c = 0; c < width; ++c) {
      dx.at(r, c) = inverse_rms[static_cast<size_t>(r)] * (dx.at(r, c) - along * n.at(r, c));
    }
  }
  return dx.reshape(normalized.shape);
}

Array sum_over_tokens(const Array& x) {
  const auto channels = static_cast<size_t>(x.size(-1));
  Array sum({x.size(-1)});
  for (size_t i = 0; i < x.data.size(); ++i) sum.data[i % channels] += x.data[i];
  return sum;
}

}  // namespace

LayerResult mamba2_forward(const LayerArgs& args) {
  const LayerConfig& c = args.config;
  const int64_t D = c.inner_size, conv_width = D + 2 * c.n_groups * c.state_size;
  LayerResult r;
  r.kept["masked_hidden"] = mask_tokens(args, args.hidden_states);
  const Array projected = linear(r.kept["masked_hidden"], param(args, "in_proj.weight"));
  r.kept["gate"] = slice_last(projected, 0, D);
  r.kept["conv_input"] = slice_last(projected, D, D + conv_width);
  r.kept["dt"] = slice_last(projected, D + conv_width, D + conv_width + c.num_heads);
  r.kept["conv_output"] =
      mask_tokens(args, oracle_causal_conv1d(conv_args(args, r.kept["conv_input"])).y);
  r.v = slice_last(r.kept["conv_output"], 0, D);
  Array y = oracle_ssd(ssd_args(args, r)).y.reshape(r.v.shape);
  if (!c.pattern.empty()) {
    r.sparse = run_sparse_branch(args, r.v);
    add_into(y, multiply_channels(r.sparse.a, param(args, "E")));
  }
  r.kept["y"] = y;
  std::vector<double> inverse_rms;
  const Array normalized =
      normalize_rms(gate_by_silu(y, r.kept["gate"]), c.norm_epsilon, inverse_rms);
  r.kept["out_input"] = multiply_channels(normalized, param(args, "norm.weight"));
  r.out = linear(r.kept["out_input"], param(args, "out_proj.weight"));
  return r;
}

LayerGrads mamba2_backward(const LayerArgs& args, const LayerResult& r, const Array& grad_out,
                           double gate_weight) {
  const LayerConfig& c = args.config;
  const Array& gate = r.kept.at("gate");
  const Array& y = r.kept.at("y");
  LayerGrads grads;
  const LinearGrads out =
      linear_backward(r.kept.at("out_input"), param(args, "out_proj.weight"), grad_out);
  grads.dparam["out_proj.weight"] = out.dw;

  std::vector<double> inverse_rms;
  const Array normalized = normalize_rms(gate_by_silu(y, gate), c.norm_epsilon, inverse_rms);
  grads.dparam["norm.weight"] = sum_over_tokens(multiply(out.dx, normalized));
  const Array dgated = normalize_rms_backward(
      normalized, inverse_rms, multiply_channels(out.dx, param(args, "norm.weight")));
  const Array dy = gate_by_silu(dgated, gate);
  Array dgate = multiply(dgated, y);
  for (size_t i = 0; i < gate.data.size(); ++i) dgate.data[i] *= silu_derivative(gate.data[i]);

  const SsdArgs ssd = ssd_args(args, r);
  const SsdGrads dssd = oracle_ssd_backward(ssd, dy.reshape(ssd.x.shape));
  grads.dparam["A_log"] = multiply(dssd.dA, ssd.A);  // dA / dA_log = -exp(A_log) = A
  grads.dparam["D"] = dssd.dD;
  grads.dparam["dt_bias"] = dssd.ddt_bias;
  Array dv = dssd.dx.reshape(r.v.shape);
  if (!c.pattern.empty()) {
    grads.dparam["E"] = sum_over_tokens(multiply(dy, r.sparse.a));
    add_into(dv, sparse_branch_backward(args, r.sparse, multiply_channels(dy, param(args, "E")),
                                        gate_weight, grads));
  }

  Array dxBC = zeros_like(r.kept.at("conv_output"));
  add_into_last(dxBC, 0, dv);
  const int64_t batch = dv.size(0), length = dv.size(1);
  const std::vector<int64_t> ungrouped = {batch, length, c.n_groups * c.state_size};
  add_into_last(dxBC, c.inner_size, dssd.dB.reshape(ungrouped));
  add_into_last(dxBC, c.inner_size + c.n_groups * c.state_size, dssd.dC.reshape(ungrouped));
  const Conv1dGrads conv = oracle_causal_conv1d_backward(conv_args(args, r.kept.at("conv_input")),
                                                         mask_tokens(args, dxBC));
  grads.dparam["conv1d.weight"] = conv.dweight.reshape(param(args, "conv1d.weight").shape);
  grads.dparam["conv1d.bias"] = conv.dbias;

  const Array dprojection = concat_axis({dgate, conv.dx, dssd.ddt}, -1);
  const LinearGrads in =
      linear_backward(r.kept.at("masked_hidden"), param(args, "in_proj.weight"), dprojection);
  grads.dparam["in_proj.weight"] = in.dw;
  grads.dhidden_states = mask_tokens(args, in.dx);
  return grads;
}

}  // namespace hax_test
