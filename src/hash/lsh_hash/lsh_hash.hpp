// lsh_hash's rooms: check (arguments to Params), plan (workspace, backend), cpu (kernels), launch
// and kernels (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hash/sequence_tiles.hpp"
#include "hax/lsh.h"

namespace hax::lsh_hash {

inline constexpr int64_t kMaxFeatures = 256;
inline constexpr int64_t kMaxBits = 63;
inline constexpr int64_t kMaxColumns = 64;  // bits rounded up to whole panels
inline constexpr int64_t kTileTokens = 384;
inline constexpr int64_t kCudaTileTokens = 256;
// Whole sequences up to this length are centred, scaled and projected by one block a head.
inline constexpr int64_t kCudaShortTokens = 2048;

struct Params {
  hax_device device;
  int64_t heads;     // H
  int64_t features;  // N
  int64_t bits;
  int32_t statistics;  // HAX_LSH_STATISTICS_*
  Sequences sequences;
  Tensor x, R, code;

  HAX_INLINE SequenceTiles tiles() const { return {sequences, kTileTokens}; }
  HAX_EVERYWHERE SequenceTiles cuda_tiles() const { return {sequences, kCudaTileTokens}; }
  // CUDA: whether there can be sequences that one block a head handles, and others.
  HAX_EVERYWHERE bool short_rows() const {
    return statistics == HAX_LSH_STATISTICS_SEQUENCE && (sequences.packed() || !long_rows());
  }
  HAX_EVERYWHERE bool long_rows() const {
    return statistics != HAX_LSH_STATISTICS_SEQUENCE || sequences.longest > kCudaShortTokens;
  }
  HAX_EVERYWHERE bool handled_short(int64_t length) const {
    return statistics == HAX_LSH_STATISTICS_SEQUENCE && length <= kCudaShortTokens;
  }
  // Features rounded up to whole vectors of doubles.
  HAX_INLINE int64_t padded_features() const { return round_up(features, 8); }
};

struct Plan {
  float* R_panels;  // (N, kMaxColumns) in panels
  // Per slot of tiles and head: mean and sum of squared deviations, one double per padded feature
  // each. First the tile's own; then, causal, those of all tokens before the tile, or else, in the
  // sequence's first slot, those of the whole sequence.
  double* moments;
};

// Sums are of differences from the sequence's first token, in fp64: that token being one of them,
// the sum of squares about the mean loses no more than a factor L of its precision.
struct CudaPlan {
  double*
      sums;  // (slots of tiles, H, 2, N): of x and its square over the tile, then, causal, over all
             // tiles before it
  float* norms;  // (sequences, H, 3, N): mean, what it lacks, and scale; not causal
};

struct BothPlans {
  Plan cpu = {};
  CudaPlan cuda = {};
};

struct Forward {
  using Args = hax_lsh_hash_forward_args;
  static constexpr const char* name = "hax_lsh_hash_forward";
  static Params check(Checker&, const Args&);
  static BothPlans plan(const Params&, const Context&, Workspace&);
  static void run(const Params&, const BothPlans&, const Context&, void* stream);
};

template <CpuLevel level>
void cpu_forward(const Params&, const Plan&, int num_threads);

void cuda_forward(const Params&, const CudaPlan&, void* stream);
// Two inputs with one R in one launch, where no sequence can be long. They need no workspace.
void cuda_forward_both(const Params&, const Params&, void* stream);

}  // namespace hax::lsh_hash
