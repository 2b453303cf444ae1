// lsh_bucket's rooms: check (arguments to Params), plan (workspace, backend), sort (keys in order
// of code and position), host (the operator on the CPU), launch and kernels (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hash/sequence_tiles.hpp"
#include "hax/lsh.h"

namespace hax::lsh_bucket {

struct Params {
  hax_device device;
  int64_t query_heads, key_heads;  // Hq, Hk
  int num_bits;
  int64_t budget;
  Sequences sequences;
  Tensor code_q, code_k, key_order, begin, end;

  HAX_EVERYWHERE SequenceTiles cuda_tiles() const;
};

// A query or key. Those of one sequence and head are sorted by (code, position).
struct Item {
  uint64_t code;
  int64_t position;
};

inline constexpr int kDigitBits = 8;  // of codes, sorted by at a time
inline constexpr int kDigitValues = 1 << kDigitBits;

inline constexpr int64_t kTileItems = 8192;  // handled by one task of a long sequence
inline constexpr int kBuffers = 3;           // sorted keys, and two to sort queries

// Sequences up to kTileItems long are handled by one thread each, longer ones one after the other
// by all threads. So scratch doesn't grow with the number of sequences and heads.
struct Plan {
  int64_t short_items;   // longest that a thread's own scratch has to hold
  Item* thread_items;    // (threads, kBuffers, short_items)
  int64_t long_items;    // longest sequence handled by all threads; 0: there can't be one
  Item* long_scratch;    // (kBuffers, long_items)
  uint32_t* histograms;  // (tiles of long_items, kDigitValues)
};

// CUDA: rows (heads of a sequence) up to kCudaShortTokens long are sorted by a block each. Longer
// ones are sorted by tiles of tokens, digit by digit from the lowest: counts of digit values,
// places of these in the row, and keys moved there.
inline constexpr int64_t kCudaShortTokens = 4096;
inline constexpr int64_t kCudaTileTokens = 2048;

HAX_EVERYWHERE SequenceTiles Params::cuda_tiles() const { return {sequences, kCudaTileTokens}; }

struct CudaPlan {
  bool short_rows, long_rows;  // whether there can be any
  // For long rows, (B, Hk, L) each:
  void* codes[2];  // uint32_t, or uint64_t for codes of more bits: between digits, then sorted
  int32_t* positions[2];  // between digits
  int32_t* starts;        // by a code's highest bits: where such codes start
  uint32_t*
      counts;  // (slots of tiles, Hk, kDigitValues): of a tile's digit values, then their places
};

struct BothPlans {
  Plan cpu = {};
  CudaPlan cuda = {};
};

struct Forward {
  using Args = hax_lsh_bucket_forward_args;
  static constexpr const char* name = "hax_lsh_bucket_forward";
  static Params check(Checker&, const Args&);
  static BothPlans plan(const Params&, const Context&, Workspace&);
  static void run(const Params&, const BothPlans&, const Context&, void* stream);
};

// Sorts `count` items that lie in order of position by code, and stably so. Answers which of the
// two buffers, each of `count` items, holds the result. histograms: kDigitValues per tile.
Item* sort_by_code(Item* items, Item* spare, int64_t count, int num_bits, uint32_t* histograms,
                   int num_threads);

void host_forward(const Params&, const Plan&, int num_threads);
void cuda_forward(const Params&, const CudaPlan&, void* stream);

}  // namespace hax::lsh_bucket
