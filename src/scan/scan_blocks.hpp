// How the scans' CPU kernels cut their work: blocks of channels (or heads) and tiles of tokens.
#pragma once

#include <cstdint>

#include "core/element.hpp"
#include "core/integer.hpp"
#include "core/workspace.hpp"

namespace hax {

inline constexpr int64_t kMaxScanStates = 256;  // N
inline constexpr int64_t kScanTile = 32;        // tokens whose inputs are held in fp32 at a time
inline constexpr int64_t kScanPadding = 16;     // lanes that rows are padded to, at every CPU level

HAX_EVERYWHERE constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
HAX_EVERYWHERE constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Channels (or heads) [first, first + count), all of one group and thus with the same B and C.
struct ScanBlock {
  int64_t group;
  int64_t first;
  int64_t count;
};

struct ScanBlocks {
  int64_t groups = 0;
  int64_t members = 0;  // channels (or heads) of a group
  int64_t size = 1;     // of a block, at most

  HAX_INLINE int64_t per_group() const { return ceil_div(members, size); }
  HAX_INLINE int64_t count() const { return groups * per_group(); }

  HAX_INLINE ScanBlock at(int64_t index) const {
    const int64_t begin = index % per_group() * size;
    const int64_t group = index / per_group();
    return {group, group * members + begin, smaller(size, members - begin)};
  }
};

// Blocks of at most `largest`, halved down to `smallest` while `rows` rows of them make fewer than
// `enough` tasks.
inline ScanBlocks make_scan_blocks(int64_t total, int64_t groups, int64_t rows, int64_t largest,
                                   int64_t smallest, int64_t enough) {
  ScanBlocks blocks{groups, groups > 0 ? total / groups : 0, largest};
  while (blocks.size > smallest &&
         (rows * blocks.count() < enough || blocks.size / 2 >= blocks.members)) {
    blocks.size /= 2;
  }
  return blocks;
}

// Forward's numbers don't depend on the blocks; backward's sums do, so there the threads must not matter.
inline int64_t enough_forward_tasks(int num_threads) { return 4 * int64_t{num_threads}; }
inline constexpr int64_t kEnoughBackwardTasks = 16;

// Scratch memory that each thread has for itself.
struct ThreadScratch {
  char* base = nullptr;
  int64_t bytes = 0;  // of one thread

  HAX_INLINE Workspace of(int thread) const { return Workspace(base + thread * bytes); }
};

// describe(Workspace&) takes what one thread needs.
template <class F>
ThreadScratch take_thread_scratch(Workspace& workspace, int num_threads, F&& describe) {
  Workspace one;
  describe(one);
  ThreadScratch scratch;
  scratch.bytes = static_cast<int64_t>(one.bytes());
  scratch.base = workspace.take<char>(scratch.bytes * num_threads);
  return scratch;
}

// Forward and step: every task is one block of one sequence, from its first token to its last.
struct ScanForwardPlan {
  ScanBlocks blocks;
  ThreadScratch scratch;
};

}  // namespace hax
