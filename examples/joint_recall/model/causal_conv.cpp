#include "model/causal_conv.hpp"

#include "model/operands.hpp"

namespace joint_recall {

CausalConv::CausalConv(const ModelConfig& config, int64_t channels, const std::string& prefix,
                       ParameterStore& store)
    : prefix_(prefix + ".conv1d."), channels_(channels), width_(config.conv_kernel) {
  store.declare(prefix_ + "weight", {channels, 1, width_});
  if (config.use_conv_bias) store.declare(prefix_ + "bias", {channels});
}

void CausalConv::bind(const ParameterStore& store) {
  weight_ = store.weight(prefix_ + "weight");
  bias_ = store.weight_if_declared(prefix_ + "bias");
}

void CausalConv::forward(Pass& pass, ConstTokens x, Tokens y) const {
  Operands operands(pass);
  hax_causal_conv1d_forward_args args = {};
  args.struct_size = sizeof args;
  args.x = operands.in(x, {channels_});
  args.weight = operands.fp32(weight_.value, {channels_, width_});
  args.bias = operands.fp32(bias_.value, {channels_});
  args.cu_seqlens = operands.cu_seqlens();
  args.y = operands.out(y, {channels_});
  args.activation = HAX_ACTIVATION_SILU;
  operands.run("causal_conv1d_forward", hax_causal_conv1d_forward_workspace,
               hax_causal_conv1d_forward, args);
  if (pass.attention_mask != nullptr) pass.backend.mask_rows(pass.attention_mask, y);
}

void CausalConv::backward(Pass& pass, ConstTokens x, Tokens dy, Tokens dx) const {
  if (pass.attention_mask != nullptr) pass.backend.mask_rows(pass.attention_mask, dy);
  Operands operands(pass);
  hax_causal_conv1d_backward_args args = {};
  args.struct_size = sizeof args;
  args.x = operands.in(x, {channels_});
  args.weight = operands.fp32(weight_.value, {channels_, width_});
  args.bias = operands.fp32(bias_.value, {channels_});
  args.cu_seqlens = operands.cu_seqlens();
  args.dy = operands.in(dy, {channels_});
  args.dx = operands.out(dx, {channels_});
  args.dweight = operands.gradient(weight_, {channels_, width_});
  args.dbias = operands.gradient(bias_, {channels_});
  args.activation = HAX_ACTIVATION_SILU;
  args.deterministic = 1;
  operands.run("causal_conv1d_backward", hax_causal_conv1d_backward_workspace,
               hax_causal_conv1d_backward, args);
}

}  // namespace joint_recall
