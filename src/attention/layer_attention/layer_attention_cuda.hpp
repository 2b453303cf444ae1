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

// Whether all sequences are short, and the call is one that the launch is made for.
bool chooses_at_once(const ForwardPlan&);
void cuda_forward_short(const ForwardPlan&, const Context&, void* stream);

}  // namespace hax::layer_attention
