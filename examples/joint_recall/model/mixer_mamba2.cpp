// Mamba-2's mixer: [gate, xBC, dt] = in_proj(h), convolution, SSD beside the sparse attention, gated norm.
#include "model/causal_conv.hpp"
#include "model/linear.hpp"
#include "model/operands.hpp"
#include "model/sparse_branch.hpp"
#include "model/transform.hpp"

namespace joint_recall {
namespace {

class Mamba2Mixer : public Transform {
 public:
  Mamba2Mixer(const ModelConfig& config, int64_t layer, const std::string& prefix,
              ParameterStore& store)
      : prefix_(prefix + "."),
        heads_(config.num_heads),
        head_dim_(config.head_dim),
        groups_(config.n_groups),
        state_size_(config.state_size),
        channels_(config.intermediate_size()),
        conv_channels_(channels_ + 2 * groups_ * state_size_),
        epsilon_(static_cast<float>(config.layer_norm_epsilon)),
        conv_(config, conv_channels_, prefix, store),
        branch_(config, layer, prefix, store) {
    store.declare(prefix_ + "in_proj.weight",
                  {channels_ + conv_channels_ + heads_, config.hidden_size});
    store.declare(prefix_ + "dt_bias", {heads_});
    store.declare(prefix_ + "A_log", {heads_});
    store.declare(prefix_ + "D", {heads_});
    store.declare(prefix_ + "norm.weight", {channels_});
    store.declare(prefix_ + "out_proj.weight", {config.hidden_size, channels_});
  }

  void bind(const ParameterStore& store) override {
    conv_.bind(store);
    branch_.bind(store);
    in_proj_ = store.weight(prefix_ + "in_proj.weight");
    dt_bias_ = store.weight(prefix_ + "dt_bias");
    A_log_ = store.weight(prefix_ + "A_log");
    D_ = store.weight(prefix_ + "D");
    norm_ = store.weight(prefix_ + "norm.weight");
    out_proj_ = store.weight(prefix_ + "out_proj.weight");
  }

  void prepare(Pass& pass) override {
    branch_.prepare(pass);
    A_ = pass.arena.take<float>(heads_);
    pass.branch(Branch::kWeights, [&] { pass.backend.negated_exp(A_log_.value, heads_, A_); });
  }

  void forward(Pass& pass, const NormedStream& in, Tokens out) override {
    const int64_t tokens = pass.tokens();
    x_ = pass.arena.tokens(tokens, in_proj_.columns);
    projected_ = pass.arena.tokens(tokens, in_proj_.rows);
    pass.backend.norm_linear(in.hidden, in.norm(), pass.attention_mask, in_proj_.matrix(), x_,
                             projected_);
    xBC_ = pass.arena.tokens(tokens, conv_channels_);
    conv_.forward(pass, conv_input(projected_), xBC_);
    if (branch_.present()) branch_.forward(pass, ssm_input(xBC_));
    y_ = pass.arena.tokens(tokens, channels_);
    scan(pass);
    if (branch_.present()) branch_.join(pass);
    normed_ = pass.arena.tokens(tokens, channels_);
    pass.backend.gated_linear(gated_sum(), norm(), out_proj_.matrix(), in.hidden, normed_, out);
  }

  void backward(Pass& pass, const NormedStream& in, ConstTokens d_out, Tokens d_hidden) override {
    const Arena::Scope scope(pass.arena, pass.branches);
    const int64_t tokens = pass.tokens();
    const Tokens d_projected = pass.arena.tokens(tokens, in_proj_.rows);
    const Tokens d_xBC = pass.arena.tokens(tokens, conv_channels_);
    const Tokens dy = pass.arena.tokens(tokens, channels_);
    const Tokens d_o = branch_.present() ? pass.arena.tokens(tokens, channels_) : Tokens{};
    linear_backward_weight(pass, normed_, out_proj_, d_out);
    pass.backend.gated_linear_backward(gated_sum(), norm(), out_proj_.matrix(), d_out,
                                       {dy, d_o, gate(d_projected), branch_.E().gradient});
    if (branch_.present()) branch_.backward(pass, d_o);
    scan_backward(pass, dy, d_xBC, dt(d_projected));
    if (branch_.present()) branch_.add_gradient(pass, ssm_input(xBC_), ssm_input(d_xBC));
    conv_.backward(pass, conv_input(projected_), d_xBC, conv_input(d_projected));
    linear_backward_weight(pass, x_, in_proj_, d_projected);
    pass.backend.norm_linear_backward(in.hidden, in.norm(), pass.attention_mask, in_proj_.matrix(),
                                      d_projected, {}, d_out, pass.arena.tokens(tokens, x_.columns),
                                      d_hidden);
  }

  const float* ranking_loss() const override { return branch_.ranking_loss(); }
  const Attention* attention() const override { return branch_.attention(); }

 private:
  // The parts of in_proj's output and of the convolution's.
  Tokens gate(Tokens projected) const { return projected.slice(0, channels_); }
  Tokens conv_input(Tokens projected) const { return projected.slice(channels_, conv_channels_); }
  Tokens dt(Tokens projected) const { return projected.slice(channels_ + conv_channels_, heads_); }
  Tokens ssm_input(Tokens xBC) const { return xBC.slice(0, channels_); }
  Tokens B(Tokens xBC) const { return xBC.slice(channels_, groups_ * state_size_); }
  Tokens C(Tokens xBC) const {
    return xBC.slice(channels_ + groups_ * state_size_, groups_ * state_size_);
  }

  RowNorm norm() const { return {norm_.value, epsilon_, norm_.gradient}; }
  GatedSum gated_sum() const { return {y_, branch_.output(), branch_.E().value, gate(projected_)}; }

  void scan(Pass& pass) {
    Operands operands(pass);
    hax_ssd_forward_args args = {};
    args.struct_size = sizeof args;
    args.x = operands.in(ssm_input(xBC_), {heads_, head_dim_});
    args.dt = operands.in(dt(projected_), {heads_});
    args.A = operands.fp32(A_, {heads_});
    args.B = operands.in(B(xBC_), {groups_, state_size_});
    args.C = operands.in(C(xBC_), {groups_, state_size_});
    args.D = operands.fp32(D_.value, {heads_});
    args.dt_bias = operands.fp32(dt_bias_.value, {heads_});
    args.cu_seqlens = operands.cu_seqlens();
    args.y = operands.out(y_, {heads_, head_dim_});
    operands.run("ssd_forward", hax_ssd_forward_workspace, hax_ssd_forward, args);
  }

  void scan_backward(Pass& pass, ConstTokens dy, Tokens d_xBC, Tokens d_dt) {
    auto* dA = pass.arena.take<float>(heads_);
    Operands operands(pass);
    hax_ssd_backward_args args = {};
    args.struct_size = sizeof args;
    args.x = operands.in(ssm_input(xBC_), {heads_, head_dim_});
    args.dt = operands.in(dt(projected_), {heads_});
    args.A = operands.fp32(A_, {heads_});
    args.B = operands.in(B(xBC_), {groups_, state_size_});
    args.C = operands.in(C(xBC_), {groups_, state_size_});
    args.D = operands.fp32(D_.value, {heads_});
    args.dt_bias = operands.fp32(dt_bias_.value, {heads_});
    args.cu_seqlens = operands.cu_seqlens();
    args.dy = operands.in(dy, {heads_, head_dim_});
    args.dx = operands.out(ssm_input(d_xBC), {heads_, head_dim_});
    args.ddt = operands.out(d_dt, {heads_});
    args.dA = operands.fp32(dA, {heads_});
    args.dB = operands.out(B(d_xBC), {groups_, state_size_});
    args.dC = operands.out(C(d_xBC), {groups_, state_size_});
    args.dD = operands.gradient(D_, {heads_});
    args.ddt_bias = operands.gradient(dt_bias_, {heads_});
    args.deterministic = 1;
    operands.run("ssd_backward", hax_ssd_backward_workspace, hax_ssd_backward, args);
    pass.branch(Branch::kWeights,
                [&] { pass.backend.negated_exp_backward(A_, dA, heads_, A_log_.gradient); });
  }

  std::string prefix_;
  int64_t heads_, head_dim_, groups_, state_size_, channels_, conv_channels_;
  float epsilon_;
  CausalConv conv_;
  SparseBranch branch_;
  Weight in_proj_, dt_bias_, A_log_, D_, norm_, out_proj_;

  Tokens x_, projected_, xBC_, y_, normed_;
  float* A_ = nullptr;
};

}  // namespace

std::unique_ptr<Transform> make_mamba2_mixer(const ModelConfig& config, int64_t layer,
                                             const std::string& prefix, ParameterStore& store) {
  return std::make_unique<Mamba2Mixer>(config, layer, prefix, store);
}

}  // namespace joint_recall
