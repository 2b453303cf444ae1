// key_score's rooms: check (arguments to Params), plan (workspace, backend), cpu_setup (packed
// weights, running sums of queries), cpu and cpu_backward (the MLP); launch and kernels (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hash/sequence_tiles.hpp"
#include "hax/key_selection.h"

namespace hax::key_score {

inline constexpr int64_t kMaxFeatures = 256;
inline constexpr int64_t kTileTokens = 384;
inline constexpr int64_t kCudaTileTokens = 128;
inline constexpr int64_t kCudaShortTokens = 2048;  // of sequences that one launch can score
inline constexpr int64_t kStep = 48;               // tokens that run through the MLP together
inline constexpr int64_t kMaxGradientParts = 32;   // partial sums of the weights' gradients

// What forward and backward share.
struct Inputs {
  hax_device device;
  int64_t heads;     // H
  int64_t features;  // N
  bool sequence_norm;
  float k_scale;
  Sequences sequences;
  Tensor q, k, W1, b1, W2, b2, W3, b3;

  // CUDA: whether there can be sequences that one launch handles, and others.
  HAX_EVERYWHERE bool one_launch() const {
    return size_of(q.type) == 2 && features <= 32 && !sequence_norm;
  }
  HAX_EVERYWHERE bool short_rows() const {
    return one_launch() && (sequences.packed() || !long_rows());
  }
  HAX_EVERYWHERE bool long_rows() const {
    return !one_launch() || sequences.longest > kCudaShortTokens;
  }
  HAX_INLINE SequenceTiles tiles() const { return {sequences, kTileTokens}; }
  HAX_EVERYWHERE SequenceTiles cuda_tiles() const { return {sequences, kCudaTileTokens}; }
  HAX_EVERYWHERE int64_t width() const { return 2 * features; }
  // Distance of rows of width() floats: room for whole panels, and no power of two.
  HAX_INLINE int64_t row() const { return round_up(width(), 32) + 16; }
  // Features rounded up to whole vectors of doubles.
  HAX_INLINE int64_t padded_features() const { return round_up(features, 8); }
};

struct ForwardParams : Inputs {
  Tensor score;
};

struct BackwardParams : Inputs {
  Tensor dscore;
  Tensor dW1, db1, dW2, db2, dW3, db3;
};

// Running sums of q. Per slot of tiles and head, and each with a double per padded feature: the sum
// over the tile, later over all tokens before it; for the sequence's norm also the sum over the
// tile's tokens of its own running sum, and of that one's square.
struct QueryPlan {
  int64_t values;  // 1 or 3
  double* sums;    // (slots, H, values, padded_features)
  double* scale;   // 1 / norm, (sequences, H, padded_features); null: the norm is each token's own
};

struct WeightPlan {
  float* W1;           // (inputs, outputs) in panels of outputs
  float* W2;           // likewise
  float* W2_backward;  // (outputs, inputs) in panels of inputs; null in forward
  float* vectors;      // b1, b2, W3 and b3, each row() long
};

// CUDA: as QueryPlan, but of tiles of their own, and without padding.
struct CudaQueryPlan {
  int64_t values;
  double* sums;   // (slots, H, values, N)
  double* scale;  // (sequences, H, N)
};

struct CudaForwardPlan {
  CudaQueryPlan query;
  uint32_t* weights;  // W1 and W2 as operands of tensor cores, see key_score_kernel_forward.cuh
};

struct ForwardPlan {
  CudaForwardPlan cuda;
  QueryPlan query;
  WeightPlan weights;
  float* scratch;  // (threads, 2, kStep, row())
};

// Tiles fall into `parts` runs of neighbours. Each has sums of its own, which are added in order,
// so the result doesn't depend on threads.
struct CudaBackwardPlan {
  CudaQueryPlan query;
  float* weights;                      // W1, W2 (inputs, outputs) and W2 (outputs, inputs), fp32
  int64_t short_parts, parts;          // of sequences that one launch handles, and of others
  float *short_gradients, *gradients;  // of each part: dW1, dW2, db1, db2, dW3, db3
};

struct BackwardPlan {
  CudaBackwardPlan cuda;
  QueryPlan query;
  WeightPlan weights;
  int64_t parts;
  int64_t part_floats;
  float*
      gradients;   // (parts, part_floats): dW1, dW2 (gradient_rows() rows each), db1, db2, dW3, db3
  float* scratch;  // (threads, kBackwardBuffers, kStep, row())
};
inline constexpr int64_t kBackwardBuffers = 5;

// Rows of a weight gradient, rounded up to whole blocks of rows.
HAX_INLINE int64_t gradient_rows(const Inputs& p) { return round_up(p.width(), 6); }

struct Forward {
  using Args = hax_key_score_forward_args;
  static constexpr const char* name = "hax_key_score_forward";
  static ForwardParams check(Checker&, const Args&);
  static ForwardPlan plan(const ForwardParams&, const Context&, Workspace&);
  static void run(const ForwardParams&, const ForwardPlan&, const Context&, void* stream);
};

struct Backward {
  using Args = hax_key_score_backward_args;
  static constexpr const char* name = "hax_key_score_backward";
  static BackwardParams check(Checker&, const Args&);
  static BackwardPlan plan(const BackwardParams&, const Context&, Workspace&);
  static void run(const BackwardParams&, const BackwardPlan&, const Context&, void* stream);
};

// Fills in the two plans that forward and backward share.
template <CpuLevel level>
void cpu_setup(const Inputs&, const QueryPlan&, const WeightPlan&, int num_threads);
template <CpuLevel level>
void cpu_forward(const ForwardParams&, const ForwardPlan&, int num_threads);
template <CpuLevel level>
void cpu_backward(const BackwardParams&, const BackwardPlan&, int num_threads);

// Words of CudaForwardPlan::weights.
int64_t cuda_weight_words(const Inputs&);
struct CudaBackwardSizes {
  int64_t weights, short_parts, parts, part_floats;
};
CudaBackwardSizes cuda_backward_sizes(const Inputs&);
void cuda_forward(const ForwardParams&, const CudaForwardPlan&, void* stream);
void cuda_backward(const BackwardParams&, const CudaBackwardPlan&, void* stream);

}  // namespace hax::key_score
