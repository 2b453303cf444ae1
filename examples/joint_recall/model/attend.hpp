// Sparse attention through libhax, as HAX layers and Samba's attention layers use it.
#pragma once

#include "model/pass.hpp"

namespace joint_recall {

// Which keys a query attends: the fields of hax_sparse_pattern.
struct KeyPatterns {
  uint32_t patterns = 0;
  int32_t window = 0, sink = 0, dilation = 0;
  // (B, heads, L) on the device; null for patterns not asked for.
  const int32_t* key_order = nullptr;
  const int32_t* begin = nullptr;
  const int32_t* end = nullptr;
  const int32_t* eviction = nullptr;
};

struct Attention {
  int64_t q_heads = 1;
  int64_t k_heads = 1;
  float scale = 1.0f;
  KeyPatterns keys;
  ConstTokens q, k, v;   // a row per token, heads side by side
  Tokens o;              // written by attend()
  float* lse = nullptr;  // (B, q_heads, L), written by attend()
};

void attend(Pass& pass, const Attention& attention);
void attend_backward(Pass& pass, const Attention& attention, ConstTokens d_o, Tokens dq, Tokens dk,
                     Tokens dv);

}  // namespace joint_recall
