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

  void draw(Pass& pass) override { branch_.draw(pass); }

  void forward(Pass& pass, Matrix x, Matrix out) override {
    const int64_t tokens = pass.tokens();
    if (pass.attention_mask != nullptr) pass.backend.mask_rows(pass.attention_mask, x);
    x_ = x;
    projected_ = pass.arena.matrix(tokens, in_proj_.rows);
    linear(pass, x, in_proj_, 0.0f, projected_);
    xBC_ = pass.arena.matrix(tokens, conv_channels_);
    conv_.forward(pass, conv_input(projected_), xBC_);
    if (branch_.present()) branch_.forward(pass, ssm_input(xBC_));
    A_ = pass.arena.take<float>(heads_);
    pass.backend.negated_exp(A_log_.value, heads_, A_);
    y_ = pass.arena.matrix(tokens, channels_);
    scan(pass);
    gated_ = pass.arena.matrix(tokens, channels_);
    pass.backend.gated_sum(y_, branch_.output(), branch_.E().value, gate(projected_), gated_);
    normed_ = pass.arena.matrix(tokens, channels_);
    pass.backend.rmsnorm(gated_, norm_.value, epsilon_, normed_);
    linear(pass, normed_, out_proj_, 1.0f, out);
  }

  void backward(Pass& pass, ConstMatrix d_out, Matrix dx) override {
    const Arena::Scope scope(pass.arena);
    const int64_t tokens = pass.tokens();
    const Matrix d_projected = pass.arena.matrix(tokens, in_proj_.rows);
    const Matrix d_xBC = pass.arena.matrix(tokens, conv_channels_);
    const Matrix dy = pass.arena.matrix(tokens, channels_);
    const Matrix d_o = branch_.present() ? pass.arena.matrix(tokens, channels_) : Matrix{};
    linear_backward(pass, normed_, out_proj_, d_out, 0.0f, dy);
    pass.backend.rmsnorm_backward(gated_, norm_.value, epsilon_, dy, false, dy, norm_.gradient);
    pass.backend.gated_sum_backward(y_, branch_.output(), branch_.E().value, gate(projected_), dy,
                                    dy, d_o, gate(d_projected), branch_.E().gradient);
    scan_backward(pass, dy, d_xBC, dt(d_projected));
    if (branch_.present()) branch_.backward(pass, ssm_input(xBC_), d_o, ssm_input(d_xBC));
    conv_.backward(pass, conv_input(projected_), d_xBC, conv_input(d_projected));
    linear_backward(pass, x_, in_proj_, d_projected, 0.0f, dx);
    if (pass.attention_mask != nullptr) pass.backend.mask_rows(pass.attention_mask, dx);
  }

  const float* ranking_loss() const override { return branch_.ranking_loss(); }
  const Attention* attention() const override { return branch_.attention(); }

 private:
  // The parts of in_proj's output and of the convolution's.
  Matrix gate(Matrix projected) const { return projected.slice(0, channels_); }
  Matrix conv_input(Matrix projected) const { return projected.slice(channels_, conv_channels_); }
  Matrix dt(Matrix projected) const { return projected.slice(channels_ + conv_channels_, heads_); }
  Matrix ssm_input(Matrix xBC) const { return xBC.slice(0, channels_); }
  Matrix B(Matrix xBC) const { return xBC.slice(channels_, groups_ * state_size_); }
  Matrix C(Matrix xBC) const {
    return xBC.slice(channels_ + groups_ * state_size_, groups_ * state_size_);
  }

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

  void scan_backward(Pass& pass, ConstMatrix dy, Matrix d_xBC, Matrix d_dt) {
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
    pass.backend.negated_exp_backward(A_, dA, heads_, A_log_.gradient);
  }

  std::string prefix_;
  int64_t heads_, head_dim_, groups_, state_size_, channels_, conv_channels_;
  float epsilon_;
  CausalConv conv_;
  SparseBranch branch_;
  Weight in_proj_, dt_bias_, A_log_, D_, norm_, out_proj_;

  Matrix x_, projected_, xBC_, y_, gated_, normed_;
  float* A_ = nullptr;
};

}  // namespace

std::unique_ptr<Transform> make_mamba2_mixer(const ModelConfig& config, int64_t layer,
                                             const std::string& prefix, ParameterStore& store) {
  return std::make_unique<Mamba2Mixer>(config, layer, prefix, store);
}

}  // namespace joint_recall
