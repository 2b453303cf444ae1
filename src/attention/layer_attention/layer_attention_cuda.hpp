// What plan and launch of the CUDA backend share.
#pragma once

#include "attention/layer_attention/layer_attention.hpp"

namespace hax::layer_attention {

// The operators whose work on short sequences one launch does.
struct ShortChoice {
  lsh_bucket::Params bucket;
  key_select::Params select;
  sparse_attention::Problem problem;
  sparse_attention::CudaIndices indices;
  sparse_attention::CudaLists lists;
};

// What the launch is made for.
inline constexpr int kMostBitsAtOnce = 20;
inline constexpr int64_t kLargestBudgetAtOnce = 64;

void cuda_forward_short(const ForwardPlan&, const Context&, void* stream);

}  // namespace hax::layer_attention
