// sparse_attention's rooms: check (arguments to Params), indices (contents of index tensors), plan
// (workspace, backend), cpu (kernels).
#pragma once

#include "attention/sparse_attention/sparse_attention_cuda_backward.hpp"
#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hax/sparse_attention.h"

namespace hax::device {
class Launcher;
}

namespace hax::sparse_attention {

inline constexpr int kMaxWidth = 256;  // of d_qk and d_v

struct Pattern {
  uint32_t bits;
  int64_t window, sink, dilation;
  Tensor key_order, begin, end, eviction;

  HAX_EVERYWHERE bool has(uint32_t bit) const { return (bits & bit) != 0; }
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
  HAX_EVERYWHERE int64_t group() const { return k_heads > 0 ? q_heads / k_heads : 0; }
};

struct ForwardParams : Problem {
  Tensor o, lse;
};

struct BackwardParams : Problem {
  Tensor o, lse, d_o, dlse;
  Tensor dq, dk, dv;
  bool deterministic;
};

// Key heads of all rows of the batch, numbered b * Hk + head, are worked on in rounds of a few, so that
// copies of their keys, values and gradients need a bounded workspace.
struct Rounds {
  int64_t heads;  // in all
  int64_t size;   // heads of a round
};

// Keys, values or a gradient of them as the kernels work on it: fp32 rows of whole vectors, either in the
// tensor itself, or in the workspace because the tensor's type, last axis or width doesn't suit, or because
// its heads lie interleaved and one head's rows would crowd into few cache sets and many pages.
struct Rows {
  bool copied = false;
  float* data = nullptr;
  int64_t width = 0;
  int64_t batch_stride = 0, token_stride = 0, head_stride = 0;  // not copied
  int64_t slot_stride = 0;  // copied: (slots, L, width), a slot for each head of the round
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
  Rounds rounds;
  Rows k, v;
  Scratch scratch;
  int64_t tile_tokens;  // queries of one task
  CudaForwardPlan cuda;
};

struct BackwardPlan {
  Rounds rounds;
  Rows k, v;
  // Sums. Copied ones have slots for each part, all heads of the first part before those of the second; they
  // are added up in the order of the parts. Width 0: not asked for.
  Rows dk, dv;
  Scratch scratch;
  int64_t parts;  // of each sequence's queries; fixed by shapes alone
  CudaBackwardPlan cuda;
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

// Takes the pieces of the workspace that a call on a GPU needs.
CudaPath choose_cuda_path(const Problem&);
CudaIndices plan_cuda_indices(const Problem&, const CudaPath&, Workspace&);
CudaBackwardPlan plan_cuda_backward(const BackwardParams&, Workspace&);
CudaForwardPlan plan_cuda_forward(const ForwardParams&, Workspace&);
void cuda_forward(const ForwardParams&, const CudaForwardPlan&, void* stream);
// What of the plan depends on addresses, before indices are prepared.
CudaForwardPlan settle_cuda_forward(const ForwardParams&, const CudaForwardPlan&);
// cuda_forward() where the plan is settled and the indices are prepared.
void cuda_attend(const ForwardParams&, const CudaForwardPlan&, const device::Launcher&);
void cuda_backward(const BackwardParams&, const CudaBackwardPlan&, void* stream);

template <CpuLevel level>
void cpu_forward(const ForwardParams&, const ForwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_backward(const BackwardParams&, const BackwardPlan&, int num_threads);

}  // namespace hax::sparse_attention
