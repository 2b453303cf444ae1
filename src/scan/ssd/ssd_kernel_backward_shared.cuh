// How the warps of ssd's backward share out products, and what lies in shared memory, in the kernels of inputs and of
// outputs.
#pragma once

#include "scan/ssd/ssd_kernel_backward_sums.cuh"

namespace hax::ssd {

template <class S>
struct InputGrid {
  static constexpr int kWarps = S::kInputWarps, kBands = S::kTokens / 16;
  static constexpr int kDown = S::kStates <= 32 ? at_most(4, kBands) : 1;
  using States =
      device::WarpGrid<S::kTokens, S::kStates, at_most(kWarps / kDown, S::kStates / 16), kDown>;
  using Width = device::WarpGrid<S::kTokens, S::kWidth,
                                 at_most(at_least(kWarps / kBands, 1), S::kWidth / 16), kBands>;
  // Blocks of 16 x 16 pairs on the diagonal and below, row after row, dealt out to the warps.
  static constexpr int kBlocks = kBands * (kBands + 1) / 2;
  static constexpr int kBlocksPerWarp = (kBlocks + kWarps - 1) / kWarps;
  // Warps that write dx, and the one that finishes sums.
  static constexpr int kFirstStorer = kWarps - 4, kStorers = 2, kFinisher = kWarps - 1;
};

template <class S>
struct InputShared {
  using T = typename S::T;
  using G = InputGrid<S>;
  struct Stage {
    T x[S::kTokens * S::kWidthRow], g[S::kTokens * S::kWidthRow];
    T dh[S::kWidth * S::kStateRow];
  };
  struct Unitwise {
    Stage stages[2];
  };
  struct AtEnds {  // before the first unit and behind the last
    T C[S::kTokens * S::kStateRow];
  };
  union {
    Unitwise units;
    AtEnds ends;
  };
  T B[S::kTokens * S::kStateRow];
  T mix[S::kTokens * S::kTokenRow];
  T dx[S::kTokens * S::kWidthRow];
  StepRows<S> steps[3];
  struct Weights {
    device::Weight<T> to_end[S::kTokens];  // with dt
    float to_end_fp32[S::kTokens];         // without
    float D[S::kWidth];
  } weights[2];
  // Pairs' contributions to y . g, by the warps that have the parts.
  struct Sums {
    float row[G::kBands][S::kTokens];              // of t with earlier tokens
    float column[G::kBands][S::kTokens];           // of s with later ones, without dt
    float own[S::kTokens];                         // with itself, without dt
    float from_dh[G::Width::kAcross][S::kTokens];  // with the state behind, without dt
    float skip[G::Width::kDown][S::kWidth];        // x . g
    float pairs[S::kExact ? S::kTokens * (S::kTokens + 1) : 1];
  } sums[2];
};

template <class S>
struct OutputGrid {
  static constexpr int kDown = S::kStates <= 32 ? at_most(4, S::kTokens / 16) : 1;
  using States = device::WarpGrid<S::kTokens, S::kStates, S::kOutputWarps / kDown, kDown>;
};

template <class S>
struct OutputShared {
  using T = typename S::T;
  using Grid = typename OutputGrid<S>::States;
  struct Stage {
    T g[S::kTokens * S::kWidthRow];
    T h[S::kWidth * S::kStateRow];
  };
  struct Unitwise {
    Stage stages[2];
  };
  struct Last {
    T B[S::kTokens * S::kStateRow], dscores[S::kTokens * S::kTokenRow];
  };
  union {
    Unitwise units;
    Last last;
  };
  T C[S::kTokens * S::kStateRow];
  StepRows<S> steps[3];
  struct Weights {
    device::Weight<T> from_start[S::kTokens];
    float over_chunk;
  } weights[2];
  struct Sums {
    float from_h[Grid::kAcross][S::kTokens];  // C . dC of all units so far
    float through[Grid::kWarps];              // h . dh
  } sums[2];
  float from_h_before[S::kTokens];
};

}  // namespace hax::ssd
