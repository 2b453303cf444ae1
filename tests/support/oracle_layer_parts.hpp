#pragma once

#include "oracle_hash.hpp"
#include "oracle_layer.hpp"

// Pieces both base models share; for the oracle_layer sources only.
namespace hax_test {

AttentionArgs attention_args_of(const SparseBranch& branch);

SparseBranch run_sparse_branch(const LayerArgs& args, const Array& v);
// Adds the branch's parameter gradients to `grads` and returns its share of dv.
Array sparse_branch_backward(const LayerArgs& args, const SparseBranch& branch, const Array& da,
                             double gate_weight, LayerGrads& grads);

const Array& param(const LayerArgs& args, const std::string& name);
Array mask_tokens(const LayerArgs& args, const Array& x);  // rows of masked tokens become 0
Array conv_weight(const LayerArgs& args);                  // (channels, 1, W) -> (channels, W)
Array negative_exp(const Array& A_log);                    // -exp, elementwise
Array multiply(const Array& a, const Array& b);            // elementwise, equal shapes
Array gate_by_silu(const Array& x, const Array& gate);     // x * SiLU(gate)
Array multiply_channels(const Array& x, const Array& e);   // (B, L, D) * (D)

LayerResult mamba_forward(const LayerArgs& args);
LayerGrads mamba_backward(const LayerArgs& args, const LayerResult& result, const Array& grad_out,
                          double gate_weight);
LayerResult mamba2_forward(const LayerArgs& args);
LayerGrads mamba2_backward(const LayerArgs& args, const LayerResult& result, const Array& grad_out,
                           double gate_weight);

}  // namespace hax_test
