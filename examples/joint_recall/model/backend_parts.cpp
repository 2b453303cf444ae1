// What a backend does by default where several steps could be one.
#include "model/backend.hpp"

namespace joint_recall {

void Backend::norm_linear(ConstTokens x, const RowNorm& norm, const uint8_t* mask,
                          ConstTokens weight, Tokens normed, Tokens y) {
  if (norm.weight != nullptr) {
    rmsnorm(x, norm.weight, norm.eps, normed);
  } else {
    copy(x, normed);
  }
  if (mask != nullptr) mask_rows(mask, normed);
  gemm(false, true, normed, weight, {}, y);
}

void Backend::norm_linear_backward(ConstTokens x, const RowNorm& norm, const uint8_t* mask,
                                   ConstTokens weight, ConstTokens dy, ConstTokens more,
                                   ConstTokens addend, Tokens d_normed, Tokens dx) {
  gemm(false, false, dy, weight, more, d_normed);
  if (mask != nullptr) mask_rows(mask, d_normed);
  if (norm.weight != nullptr) {
    rmsnorm_backward(x, norm.weight, norm.eps, d_normed, addend, dx, norm.gradient);
    return;
  }
  copy(d_normed, dx);
  if (addend.present()) add(addend, dx);
}

void Backend::gated_linear(const GatedSum& sum, const RowNorm& norm, ConstTokens weight,
                           ConstTokens addend, Tokens gated, Tokens out) {
  if (norm.weight != nullptr) {
    gated_rmsnorm(sum, norm.weight, norm.eps, gated);
  } else {
    gated_sum(sum, gated);
  }
  gemm(false, true, gated, weight, addend, out);
}

void Backend::gated_linear_backward(const GatedSum& sum, const RowNorm& norm, ConstTokens weight,
                                    ConstTokens d_out, const GatedSumGradients& gradients) {
  gemm(false, false, d_out, weight, {}, gradients.y);
  if (norm.weight != nullptr) {
    gated_rmsnorm_backward(sum, norm.weight, norm.eps, gradients.y, gradients, norm.gradient);
  } else {
    gated_sum_backward(sum, gradients.y, gradients);
  }
}

void Backend::head(const HeadTerms& h) {
  gather_rows(h.stream, h.positions, h.rows);
  rmsnorm(h.rows, h.norm.weight, h.norm.eps, h.normed);
  gemm(false, true, h.normed, h.table, {}, h.logits);
  cross_entropy(h.targets, h.scale, h.logits, h.loss, h.prediction, h.d_logits);
  if (!h.d_logits.present()) return;
  gemm(false, false, h.d_logits, h.table, {}, h.d_rows);
  rmsnorm_backward(h.rows, h.norm.weight, h.norm.eps, h.d_rows, {}, h.d_rows, h.norm.gradient);
  scatter_rows(h.d_rows, h.positions, h.d_stream);
}

}  // namespace joint_recall
