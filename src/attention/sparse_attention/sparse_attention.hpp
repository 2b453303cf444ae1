// sparse_attention's rooms: check (arguments to Params), indices (contents of index tensors), plan
// (workspace, backend), cpu (kernels).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hax/sparse_attention.h"

namespace hax::sparse_attention {

inline constexpr int kMaxWidth = 256;  // of d_qk and d_v

struct Pattern {
  uint32_t bits;
  int64_t window, sink, dilation;
  Tensor key_order, begin, end, eviction;

  HAX_INLINE bool has(uint32_t bit) const { return (bits & bit) != 0; }
};

// What forward and backward share.
struct Problem {
  hax_device device;
  int64_t q_heads, k_heads, d_qk, d_v;
  Sequences sequences;
  Pattern pattern;
  Tensor q, k, v;
  float scale;

  // Query heads that share a key head.
  HAX_INLINE int64_t group() const { return k_heads > 0 ? q_heads / k_heads : 0; }
};

struct ForwardParams : Problem {
  Tensor o, lse;
};

struct BackwardParams : Problem {
  Tensor o, lse, d_o, dlse;
  Tensor dq, dk, dv;
};

// One row of fp32 per (b, token, key head), `width` long: whole vectors of the CPU level in use.
struct Rows {
  float* data = nullptr;
  int64_t width = 0;
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0;

  HAX_INLINE float* at(int64_t b, int64_t token, int64_t head) const {
    return data + b * batch_stride + token * token_stride + head * head_stride;
  }
};

// Keys or values as the kernels read them: the tensor itself, or an fp32 copy in the workspace where its
// type, its last axis or its width doesn't suit.
struct Operand {
  Rows rows;
  bool copied = false;
};

// One array for each of the threads that run at a time.
template <class T>
struct PerThread {
  T* data = nullptr;
  int64_t count = 0;  // of each thread

  HAX_INLINE T* of(int thread) const { return data ? data + thread * count : nullptr; }
};

struct Scratch {
  int threads;
  PerThread<int32_t> active;  // with key selection: the keys selected at the present query
  PerThread<float> tiles;     // with the full pattern
  PerThread<uint32_t> seen;   // with LSH: bits of the keys met in key_order, for its check
};

struct ForwardPlan {
  Operand k, v;
  Scratch scratch;
  int64_t tile_tokens;  // queries of one task
};

// Where the gradient of keys or values is summed. Tasks are (part of the queries, sequence, key head).
enum class SumPlace {
  none,     // not asked for
  output,   // in the output itself
  head,     // slot b * Hk + head of the workspace
  thread,   // slot `thread`, which holds one sequence at a time
  part,     // slot (part * B + b) * Hk + head, added up in the order of the parts at the end
};

struct Sum {
  SumPlace place = SumPlace::none;
  Rows rows;                // place output
  float* slots = nullptr;   // otherwise (slots, L, width)
  int64_t width = 0;
};

struct BackwardPlan {
  Operand k, v;
  Scratch scratch;
  int64_t parts;  // of each sequence's queries; fixed by shapes alone
  Sum dk, dv;
};

struct Forward {
  using Args = hax_sparse_attention_forward_args;
  static constexpr const char* name = "hax_sparse_attention_forward";
  static ForwardParams check(Checker&, const Args&);
  static ForwardPlan plan(const ForwardParams&, const Context&, Workspace&);
  static void run(const ForwardParams&, const ForwardPlan&, const Context&, void* stream);
};

struct Backward {
  using Args = hax_sparse_attention_backward_args;
  static constexpr const char* name = "hax_sparse_attention_backward";
  static BackwardParams check(Checker&, const Args&);
  static BackwardPlan plan(const BackwardParams&, const Context&, Workspace&);
  static void run(const BackwardParams&, const BackwardPlan&, const Context&, void* stream);
};

// Throws INVALID_ARGUMENT, naming tensor and position, unless key_order is a permutation of each
// sequence's positions, 0 <= begin <= end <= length and j <= eviction[j] <= length.
void check_indices(const char* function, const Problem&, const Scratch&);

// Tiles of the full pattern on the CPU: queries and keys of one.
inline constexpr int kTileQueries = 32;
inline constexpr int kTileKeys = 64;

template <CpuLevel level>
void cpu_forward(const ForwardParams&, const ForwardPlan&);
template <CpuLevel level>
void cpu_backward(const BackwardParams&, const BackwardPlan&, int num_threads);
// Fills the workspace copies of keys and values, where there are any.
template <CpuLevel level>
void cpu_copy_operands(const Problem&, const Operand& k, const Operand& v, int num_threads);

}  // namespace hax::sparse_attention
