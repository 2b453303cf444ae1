// Mamba's mixer: [x, gate] = in_proj(h), convolution, selective scan beside the sparse attention, gate.
#include "model/causal_conv.hpp"
#include "model/linear.hpp"
#include "model/operands.hpp"
#include "model/sparse_branch.hpp"
#include "model/transform.hpp"

namespace joint_recall {
namespace {

class MambaMixer : public Transform {
 public:
  MambaMixer(const ModelConfig& config, int64_t layer, const std::string& prefix,
             ParameterStore& store)
      : prefix_(prefix + "."),
        channels_(config.intermediate_size()),
        state_size_(config.state_size),
        rank_(config.time_step_rank),
        conv_(config, channels_, prefix, store),
        branch_(config, layer, prefix, store) {
    store.declare(prefix_ + "in_proj.weight", {2 * channels_, config.hidden_size});
    store.declare(prefix_ + "x_proj.weight", {rank_ + 2 * state_size_, channels_});
    store.declare(prefix_ + "dt_proj.weight", {channels_, rank_});
    store.declare(prefix_ + "dt_proj.bias", {channels_});
    store.declare(prefix_ + "A_log", {channels_, state_size_});
    store.declare(prefix_ + "D", {channels_});
    store.declare(prefix_ + "out_proj.weight", {config.hidden_size, channels_});
  }

  void bind(const ParameterStore& store) override {
    conv_.bind(store);
    branch_.bind(store);
    in_proj_ = store.weight(prefix_ + "in_proj.weight");
    x_proj_ = store.weight(prefix_ + "x_proj.weight");
    dt_proj_ = store.weight(prefix_ + "dt_proj.weight");
    dt_bias_ = store.weight(prefix_ + "dt_proj.bias");
    A_log_ = store.weight(prefix_ + "A_log");
    D_ = store.weight(prefix_ + "D");
    out_proj_ = store.weight(prefix_ + "out_proj.weight");
  }

  void prepare(Pass& pass) override {
    branch_.prepare(pass);
    A_ = pass.arena.take<float>(A_log_.count());
    pass.branch(Branch::kWeights,
                [&] { pass.backend.negated_exp(A_log_.value, A_log_.count(), A_); });
  }

  void forward(Pass& pass, const NormedStream& in, Tokens out) override {
    const int64_t tokens = pass.tokens();
    x_ = pass.arena.tokens(tokens, in_proj_.columns);
    projected_ = pass.arena.tokens(tokens, 2 * channels_);
    pass.backend.norm_linear(in.hidden, in.norm(), nullptr, in_proj_.matrix(), x_, projected_);
    if (pass.attention_mask != nullptr) {
      pass.backend.mask_rows(pass.attention_mask, conv_input(projected_));
    }
    u_ = pass.arena.tokens(tokens, channels_);
    conv_.forward(pass, conv_input(projected_), u_);
    if (branch_.present()) branch_.forward(pass, u_);
    ssm_ = pass.arena.tokens(tokens, rank_ + 2 * state_size_);
    linear(pass, u_, x_proj_, {}, ssm_);
    delta_ = pass.arena.tokens(tokens, channels_);
    linear(pass, dt_low(ssm_), dt_proj_, {}, delta_);
    y_ = pass.arena.tokens(tokens, channels_);
    scan(pass);
    if (branch_.present()) branch_.join(pass);
    gated_ = pass.arena.tokens(tokens, channels_);
    // The gate multiplies scan and attention alike, so the scan is called without it.
    pass.backend.gated_linear(gated_sum(), {}, out_proj_.matrix(), in.hidden, gated_, out);
  }

  void backward(Pass& pass, const NormedStream& in, ConstTokens d_out, Tokens d_hidden) override {
    const Arena::Scope scope(pass.arena, pass.branches);
    const int64_t tokens = pass.tokens();
    const Tokens d_projected = pass.arena.tokens(tokens, 2 * channels_);
    const Tokens du = pass.arena.tokens(tokens, channels_);
    const Tokens d_ssm = pass.arena.tokens(tokens, rank_ + 2 * state_size_);
    const Tokens d_delta = pass.arena.tokens(tokens, channels_);
    const Tokens dy = pass.arena.tokens(tokens, channels_);
    const Tokens d_o = branch_.present() ? pass.arena.tokens(tokens, channels_) : Tokens{};
    linear_backward_weight(pass, gated_, out_proj_, d_out);
    pass.backend.gated_linear_backward(gated_sum(), {}, out_proj_.matrix(), d_out,
                                       {dy, d_o, gate(d_projected), branch_.E().gradient});
    if (branch_.present()) branch_.backward(pass, d_o);
    scan_backward(pass, dy, du, d_delta, d_ssm);
    linear_backward_weight(pass, dt_low(ssm_), dt_proj_, d_delta);
    linear_backward_input(pass, dt_proj_, d_delta, {}, dt_low(d_ssm));
    linear_backward_weight(pass, u_, x_proj_, d_ssm);
    linear_backward_input(pass, x_proj_, d_ssm, du, du);
    if (branch_.present()) branch_.add_gradient(pass, u_, du);
    conv_.backward(pass, conv_input(projected_), du, conv_input(d_projected));
    if (pass.attention_mask != nullptr) {
      pass.backend.mask_rows(pass.attention_mask, conv_input(d_projected));
    }
    linear_backward_weight(pass, x_, in_proj_, d_projected);
    pass.backend.norm_linear_backward(in.hidden, in.norm(), nullptr, in_proj_.matrix(), d_projected,
                                      {}, d_out, pass.arena.tokens(tokens, x_.columns), d_hidden);
  }

  const float* ranking_loss() const override { return branch_.ranking_loss(); }
  const Attention* attention() const override { return branch_.attention(); }

 private:
  // The parts of in_proj's output and of x_proj's.
  Tokens conv_input(Tokens projected) const { return projected.slice(0, channels_); }
  Tokens gate(Tokens projected) const { return projected.slice(channels_, channels_); }
  Tokens dt_low(Tokens ssm) const { return ssm.slice(0, rank_); }
  Tokens B(Tokens ssm) const { return ssm.slice(rank_, state_size_); }
  Tokens C(Tokens ssm) const { return ssm.slice(rank_ + state_size_, state_size_); }

  GatedSum gated_sum() const { return {y_, branch_.output(), branch_.E().value, gate(projected_)}; }

  void scan(Pass& pass) {
    Operands operands(pass);
    hax_selective_scan_forward_args args = {};
    args.struct_size = sizeof args;
    args.u = operands.in(u_, {channels_});
    args.delta = operands.in(delta_, {channels_});
    args.A = operands.fp32(A_, {channels_, state_size_});
    args.B = operands.in(B(ssm_), {1, state_size_});
    args.C = operands.in(C(ssm_), {1, state_size_});
    args.D = operands.fp32(D_.value, {channels_});
    args.delta_bias = operands.fp32(dt_bias_.value, {channels_});
    args.cu_seqlens = operands.cu_seqlens();
    args.y = operands.out(y_, {channels_});
    args.delta_softplus = 1;
    operands.run("selective_scan_forward", hax_selective_scan_forward_workspace,
                 hax_selective_scan_forward, args);
  }

  void scan_backward(Pass& pass, ConstTokens dy, Tokens du, Tokens d_delta, Tokens d_ssm) {
    auto* dA = pass.arena.take<float>(A_log_.count());
    Operands operands(pass);
    hax_selective_scan_backward_args args = {};
    args.struct_size = sizeof args;
    args.u = operands.in(u_, {channels_});
    args.delta = operands.in(delta_, {channels_});
    args.A = operands.fp32(A_, {channels_, state_size_});
    args.B = operands.in(B(ssm_), {1, state_size_});
    args.C = operands.in(C(ssm_), {1, state_size_});
    args.D = operands.fp32(D_.value, {channels_});
    args.delta_bias = operands.fp32(dt_bias_.value, {channels_});
    args.cu_seqlens = operands.cu_seqlens();
    args.dy = operands.in(dy, {channels_});
    args.du = operands.out(du, {channels_});
    args.ddelta = operands.out(d_delta, {channels_});
    args.dA = operands.fp32(dA, {channels_, state_size_});
    args.dB = operands.out(B(d_ssm), {1, state_size_});
    args.dC = operands.out(C(d_ssm), {1, state_size_});
    args.dD = operands.gradient(D_, {channels_});
    args.ddelta_bias = operands.gradient(dt_bias_, {channels_});
    args.delta_softplus = 1;
    args.deterministic = 1;
    operands.run("selective_scan_backward", hax_selective_scan_backward_workspace,
                 hax_selective_scan_backward, args);
    pass.branch(Branch::kWeights, [&] {
      pass.backend.negated_exp_backward(A_, dA, A_log_.count(), A_log_.gradient);
    });
  }

  std::string prefix_;
  int64_t channels_, state_size_, rank_;
  CausalConv conv_;
  SparseBranch branch_;
  Weight in_proj_, x_proj_, dt_proj_, dt_bias_, A_log_, D_, out_proj_;

  Tokens x_, projected_, u_, ssm_, delta_, y_, gated_;
  float* A_ = nullptr;
};

}  // namespace

std::unique_ptr<Transform> make_mamba_mixer(const ModelConfig& config, int64_t layer,
                                            const std::string& prefix, ParameterStore& store) {
  return std::make_unique<MambaMixer>(config, layer, prefix, store);
}

}  // namespace joint_recall
