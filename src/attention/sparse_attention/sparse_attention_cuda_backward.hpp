// What plan and launches of the backward CUDA kernels share.
#pragma once

#include <cstdint>

namespace hax::sparse_attention {

// Which of a tile's pairs of query and key count. `own` and `lsh` as in sparse_attention_cuda.hpp's reader.
enum class PairRule {
  own,          // those of the keys' spans
  lsh,          // those looked up in key_order
  own_not_lsh,  // those of the spans that are not looked up
  either,
};

struct CudaBackwardPlan {
  float* delta = nullptr;  // (B Hq, L): sum over d of o d_o, less dlse
  int32_t* key_rank = nullptr;  // (B Hk, L)
};

}  // namespace hax::sparse_attention
