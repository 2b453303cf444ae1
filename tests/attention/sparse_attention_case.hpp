// Random cases of sparse_attention, run through the C functions and through the oracle.
#pragma once

#include <string>
#include <vector>

#include "support/comparator.hpp"
#include "support/oracle_attention.hpp"
#include "support/oracle_hash.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {

inline constexpr uint32_t kHaxPatterns = HAX_PATTERN_LSH | HAX_PATTERN_KEY_SELECTION;

struct AttentionCase {
  int64_t batch = 2, length = 37, q_heads = 4, k_heads = 2, d_qk = 16, d_v = 24;
  uint32_t patterns = kHaxPatterns;
  int32_t window = 5, sink = 3, dilation = 4;
  int64_t lsh_budget = 4, selection_budget = 4;
  uint64_t codes = 3;  // different hash codes
  double scale = 0.3;
  bool dlse = true;
  std::vector<int64_t> cu_seqlens = {};
  hax_data_type type = kFp32;
  hax_data_type cu_type = kInt32;
  Layout layout = Layout::compact;
  uint64_t seed = 1;

  std::vector<int64_t> q_shape() const { return {batch, length, q_heads, d_qk}; }
  std::vector<int64_t> k_shape() const { return {batch, length, k_heads, d_qk}; }
  std::vector<int64_t> v_shape() const { return {batch, length, k_heads, d_v}; }
  std::vector<int64_t> o_shape() const { return {batch, length, q_heads, d_v}; }
  std::vector<int64_t> lse_shape() const { return {batch, q_heads, length}; }
  bool has(uint32_t bit) const { return (patterns & bit) != 0; }
};

std::string describe(const AttentionCase& c);

// A case's data: what the operator is given, rounded to its types, and what it should attend to.
struct AttentionData {
  explicit AttentionData(const AttentionCase& c);

  AttentionArgs oracle;
  Array d_o, dlse;
  Array key_order, begin, end, eviction;  // absent where their pattern isn't asked for
};

// hax_sparse_pattern and the tensors behind it.
struct PatternArguments {
  PatternArguments(const AttentionCase& c, const AttentionData& data);
  PatternArguments(const PatternArguments&) = delete;

  Argument key_order, begin, end, eviction;
  hax_sparse_pattern pattern = {};
};

struct AttentionOutputs {
  Argument o, lse;
};
AttentionOutputs run_forward(const AttentionCase& c, const AttentionData& data,
                             const hax_context* context);

struct AttentionGradients {
  Argument dq, dk, dv;
};
// Bits of `wanted`: 1 dq, 2 dk, 4 dv.
AttentionGradients run_backward(const AttentionCase& c, const AttentionData& data,
                                const AttentionOutputs& forward, const hax_context* context,
                                int wanted = 7);

// Runs forward and backward and compares with the oracle.
void expect_matches(const AttentionCase& c, const hax_context* context);

}  // namespace hax_test
