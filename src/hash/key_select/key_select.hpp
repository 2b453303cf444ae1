// key_select's rooms: check (arguments to Params), plan (workspace, backend), host (the operator on
// the CPU), launch and kernels (CUDA).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hash/sequence_tiles.hpp"
#include "hax/key_selection.h"

namespace hax::key_select {

// CUDA: a warp walks one chunk of one row (a head of a sequence). It starts from the best keys of
// the chunks before, which are found first where rows have several chunks.
inline constexpr int64_t kChunkTokens = 2048;

// Rows of several chunks take a bound from their first chunk, and a higher one from their first kHeadTokens, that later
// keys must exceed. Where at most kMostEntering of a chunk do, these are listed and walked alone.
inline constexpr int64_t kHeadTokens = 8192;
inline constexpr int kMostEntering = 256;
inline constexpr int kAllEnter = -1;  // in place of a count: not listed

// Most keys that the lanes of a warp hold together; larger budgets take a block per row.
inline constexpr int64_t kMaxListed = 256;

struct Params {
  hax_device device;
  int64_t heads;  // H
  int64_t budget;
  Sequences sequences;
  Tensor score, eviction;

  HAX_EVERYWHERE SequenceTiles chunks() const { return {sequences, kChunkTokens}; }
};

struct Plan {
  int64_t capacity;    // CPU: most keys that can be held at once
  uint64_t* selected;  // CPU: (threads, capacity)
  int64_t listed;      // CUDA: keys of a list, 32, 64, 128 or 256; 0: larger
  bool several;        // CUDA: whether a row can have more than one chunk
  uint64_t* best;      // CUDA: (slots of chunks, H, listed), ranks in ascending order, 0 for no key
  float* bounds;       // CUDA: (sequences, H, 2); NaN for none
  int32_t* counts;     // CUDA: (slots of chunks, H), of entering keys
  uint64_t* entering;  // CUDA: (slots of chunks, H, kMostEntering), ranks in order of position
  uint64_t* all;       // CUDA, larger: (2, B, H, L), as in best
};

struct Forward {
  using Args = hax_key_select_forward_args;
  static constexpr const char* name = "hax_key_select_forward";
  static Params check(Checker&, const Args&);
  static Plan plan(const Params&, const Context&, Workspace&);
  static void run(const Params&, const Plan&, const Context&, void* stream);
};

void host_forward(const Params&, const Plan&, int num_threads);
void cuda_forward(const Params&, const Plan&, void* stream);

}  // namespace hax::key_select
