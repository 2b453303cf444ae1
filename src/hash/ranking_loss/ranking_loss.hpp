// ranking_loss's rooms: check (arguments to Params), plan (workspace, backend), picks (picked
// positions in order), cpu (targets) and cpu_pairs (loss and gradient from scores and targets),
// launch and kernels (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hash/sequence_tiles.hpp"
#include "hax/key_selection.h"

namespace hax::ranking_loss {

inline constexpr int64_t kMaxFeatures = 256;
inline constexpr int64_t kTileTokens = 384;
inline constexpr int64_t kCudaTileTokens = 128;
inline constexpr int64_t kPairRows = 64;  // picks whose pairs with all others make one task

// What forward and backward share. A row is one head of one sequence.
struct Inputs {
  hax_device device;
  int64_t heads;  // H
  int64_t picks;  // M, entries of a row, used or not
  Sequences sequences;
  Tensor score, pick;

  HAX_EVERYWHERE int64_t rows() const { return sequences.count() * heads; }
  HAX_INLINE int64_t padded_picks() const { return round_up(picks, 32); }
  HAX_EVERYWHERE int64_t pair_blocks() const { return ceil_div(picks, kPairRows); }
};

struct ForwardParams : Inputs {
  int64_t features;  // N
  float k_scale;
  Tensor q, k, loss, target;

  HAX_INLINE SequenceTiles tiles() const { return {sequences, kTileTokens}; }
  HAX_EVERYWHERE SequenceTiles cuda_tiles() const { return {sequences, kCudaTileTokens}; }
};

struct BackwardParams : Inputs {
  Tensor target, dloss, dscore;
};

// The used picks of each row in order of position, with their scores and targets.
struct PickPlan {
  int64_t* count;  // (rows)
  int32_t* entry;  // (rows, M): index of a pick on the M axis
  float* score;    // (rows, padded_picks); not defined past count
  float* target;   // likewise
};

// CUDA: entries stay in the caller's order, used or not.
struct CudaForwardPlan {
  double* shares;  // (slots of tiles, H, M): a tile's part of the targets
  float* target;   // (rows, M)
  double* losses;  // (rows, pair blocks): of the pairs of a block's entries with all
  int64_t* count;  // (rows): used entries
};

struct CudaBackwardPlan {
  int64_t* count;      // (rows): used entries
  int64_t* rows_used;  // rows that have any
};

struct ForwardPlan {
  CudaForwardPlan cuda;
  PickPlan picks;
  float* queries;  // (threads, kTileTokens, query_row())
  double* shares;  // (slots of tiles, H, padded_picks): a tile's part of the targets
  float* losses;   // (rows, padded_picks): of each pick's pairs
};

struct BackwardPlan {
  CudaBackwardPlan cuda;
  PickPlan picks;
  float* gradient;  // (rows, padded_picks)
};

// Distance of queries in scratch: not a power of two.
HAX_INLINE int64_t query_row(const ForwardParams& p) { return round_up(p.features, 16) + 16; }

struct Forward {
  using Args = hax_ranking_loss_forward_args;
  static constexpr const char* name = "hax_ranking_loss_forward";
  static ForwardParams check(Checker&, const Args&);
  static ForwardPlan plan(const ForwardParams&, const Context&, Workspace&);
  static void run(const ForwardParams&, const ForwardPlan&, const Context&, void* stream);
};

struct Backward {
  using Args = hax_ranking_loss_backward_args;
  static constexpr const char* name = "hax_ranking_loss_backward";
  static BackwardParams check(Checker&, const Args&);
  static BackwardPlan plan(const BackwardParams&, const Context&, Workspace&);
  static void run(const BackwardParams&, const BackwardPlan&, const Context&, void* stream);
};

// Fills in all but the targets.
void order_picks(const Inputs&, const PickPlan&, int num_threads);

// Fills in the picks' targets and writes p.target.
template <CpuLevel level>
void cpu_targets(const ForwardParams&, const ForwardPlan&, int num_threads);
// Writes p.loss.
template <CpuLevel level>
void cpu_loss(const ForwardParams&, const ForwardPlan&, int num_threads);
// Reads p.target and writes p.dscore.
template <CpuLevel level>
void cpu_backward(const BackwardParams&, const BackwardPlan&, int num_threads);

void cuda_forward(const ForwardParams&, const CudaForwardPlan&, void* stream);
void cuda_backward(const BackwardParams&, const CudaBackwardPlan&, void* stream);

}  // namespace hax::ranking_loss
