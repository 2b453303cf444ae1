// lsh_hash's rooms: check (arguments to Params), plan (workspace, backend), cpu (kernels).
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

struct Params {
  hax_device device;
  int64_t heads;     // H
  int64_t features;  // N
  int64_t bits;
  int32_t statistics;  // HAX_LSH_STATISTICS_*
  Sequences sequences;
  Tensor x, R, code;

  HAX_INLINE SequenceTiles tiles() const { return {sequences, kTileTokens}; }
  // Features rounded up to whole vectors of doubles.
  HAX_INLINE int64_t padded_features() const { return round_up(features, 8); }
};

struct Plan {
  float* R_panels;  // (N, kMaxColumns) in panels
  // Per slot of tiles and head: mean and sum of squared deviations, one double per padded feature each.
  // First the tile's own; then, causal, those of all tokens before the tile, or else, in the
  // sequence's first slot, those of the whole sequence.
  double* moments;
};

struct Forward {
  using Args = hax_lsh_hash_forward_args;
  static constexpr const char* name = "hax_lsh_hash_forward";
  static Params check(Checker&, const Args&);
  static Plan plan(const Params&, const Context&, Workspace&);
  static void run(const Params&, const Plan&, const Context&, void* stream);
};

template <CpuLevel level>
void cpu_forward(const Params&, const Plan&, int num_threads);

}  // namespace hax::lsh_hash
