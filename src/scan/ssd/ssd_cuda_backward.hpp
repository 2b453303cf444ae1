// How ssd's CUDA backward cuts its work, for plan, launch and kernels.
//
// A sequence is cut into chunks of tokens, a head into slices of its width P. What a slice adds to any gradient doesn't
// depend on the other slices, so a (head, slice) pair, a unit, is treated as a head of its own.
#pragma once

#include "core/tensor.hpp"
#include "scan/ssd/ssd_cuda.hpp"

namespace hax::ssd {

// How gradients of a chunk are made.
enum class Gradients {
  apart,          // dx and dB by one kernel, dC by another
  by_warps,       // small heads: a warp has a unit
  by_warpgroups,  // sm_90a
};

struct CudaBackwardShape {
  int tokens;  // of a chunk
  int states;  // N, padded
  int width;   // of a slice of P, padded
  Gradients gradients = Gradients::apart;
  bool operator==(const CudaBackwardShape&) const = default;
};

// All that there are kernels for, with 16-bit activations and with fp32. The last of each list does for every N and
// needs no more than 99 KiB of shared memory.
inline constexpr CudaBackwardShape kCudaBackwardShapes16[] = {
    {64, 32, 16, Gradients::by_warps}, {128, 128, 64, Gradients::by_warpgroups}, {64, 256, 16}};
inline constexpr CudaBackwardShape kCudaBackwardShapes32[] = {{32, 32, 16}, {32, 256, 16}};

// Where chunks lie. Packed sequences take as many places as floor(L / chunk) + S chunks, some of which stay unused.
struct Chunks {
  int64_t tokens;  // of a chunk
  int64_t count;   // places

  HAX_EVERYWHERE int64_t per_row(const Sequences& sequences) const {
    return (sequences.length + tokens - 1) / tokens;
  }
  // Place of the first chunk of sequence s.
  HAX_EVERYWHERE int64_t first_of(const Sequences& sequences, int64_t s) const {
    return sequences.packed() ? sequences.boundary(s) / tokens + s : s * per_row(sequences);
  }
};

struct CudaBackwardPlan {
  CudaBackwardShape shape;
  Chunks chunks;
  int64_t slices;    // of a head
  int64_t segments;  // of a sequence's walk through its chunks
  int64_t segment_chunks;
  int64_t shares;        // blocks among which a group's units are shared out
  int64_t skip_columns;  // of dD that a unit has: its width, or 1

  Tensor
      g;  // gradient of y before the gate: dy or, where there is a gate, made from it in the workspace
  Tensor y;  // y before the gate, where dz needs it, which forward makes
  CudaForwardPlan forward;
  float* steps;  // (chunks, H, 3, tokens): dt, sum of dt A log2(e) up to each token as a sum of two
  float*
      decays;  // (chunks, H, 4): of the state over the chunk, forwards and back; then A, and D where it is (H)
  void*
      weights;  // (2, chunks, H, tokens), T: of tokens in the chunk's last state, in its first gradient
  void*
      states;  // (2, chunks, units, width, states), T: before the chunk; gradient of the one behind it
  float* segment_states;  // (S, units, 2, segments, width, states): what a segment adds to a state
  float* segment_decays;  // (S, units, 2, segments)
  void*
      dscores;  // (shares, chunks, G, tokens, tokens), T: gradient of C_t . B_s from a share's units
  float* step_sums;  // (parts, slices, chunks, H, tokens): gradient of dt
  float*
      gradients;  // (shares, B, L, G, 2, N): what each share adds to dB and dC; null: there is one
  int64_t parts;  // of dA and step_sums that kernels leave
  float* dA;      // (parts, chunks, units)
  float* dD;      // (chunks, units, skip_columns)
  float* dbias;   // (chunks, H)

  HAX_EVERYWHERE int64_t units(int64_t heads) const { return heads * slices; }
};

}  // namespace hax::ssd
