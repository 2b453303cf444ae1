// Forward of ssd token by token in fp32, for fp32 activations: products of matrices would have to be made of three
// each to keep their precision, and cost as much.
#pragma once

#include "scan/ssd/ssd_kernel_rows.cuh"

namespace hax::ssd {

inline constexpr int kRecurrentThreads = 256;
inline constexpr int kRecurrentTile = 32;                                  // tokens
inline constexpr int kRecurrentUnits = kRecurrentThreads / device::kWarp;  // of a block
inline constexpr int kRecurrentColumns = kRecurrentUnits * kWarpRows;

template <class S>
struct RecurrentShared {
  float B[kRecurrentTile][S::kAllStates];
  float C[kRecurrentTile][S::kAllStates];
  float x[kRecurrentTile][kRecurrentColumns];
  float y[kRecurrentTile][kRecurrentColumns];
  TokenStep steps[kRecurrentTile][kRecurrentUnits];
};

// The units of a block, all of one group and thus with the same B and C.
struct RecurrentBlock {
  int64_t group, first, count;

  __device__ RecurrentBlock(const Inputs& in, int64_t index) {
    const int64_t units = in.heads / in.groups * ((in.width + kWarpRows - 1) / kWarpRows);
    const int64_t blocks = (units + kRecurrentUnits - 1) / kRecurrentUnits;
    const int64_t begin = index % blocks * kRecurrentUnits;
    group = index / blocks;
    first = group * units + begin;
    count = min(int64_t{kRecurrentUnits}, units - begin);
  }
};

inline int64_t recurrent_blocks(const Inputs& in) {
  if (in.groups == 0) return 0;
  return in.groups * ceil_div(row_units(in) / in.groups, kRecurrentUnits);
}

template <class S>
__device__ void load_tile(RecurrentShared<S>& shared, const ForwardParams& p,
                          const RecurrentBlock& block, int64_t row, int64_t token, int tokens) {
  for (int i = threadIdx.x; i < tokens * S::kAllStates; i += kRecurrentThreads) {
    const int t = i / S::kAllStates, n = i % S::kAllStates;
    const bool valid = n < p.states;
    shared.B[t][n] = valid ? *p.B.at<float>(row, token + t, block.group, n) : 0.0f;
    shared.C[t][n] = valid ? *p.C.at<float>(row, token + t, block.group, n) : 0.0f;
  }
  for (int i = threadIdx.x; i < tokens * kRecurrentColumns; i += kRecurrentThreads) {
    const int t = i / kRecurrentColumns, column = i % kRecurrentColumns;
    float x = 0.0f;
    if (column / kWarpRows < block.count) {
      const RowUnit unit(p, static_cast<unsigned>(block.first + column / kWarpRows));
      const int64_t row_p = unit.first_row + column % kWarpRows;
      if (row_p < p.width) x = *p.x.at<float>(row, token + t, unit.head, row_p);
    }
    shared.x[t][column] = x;
  }
  static_assert(kRecurrentTile * kRecurrentUnits == kRecurrentThreads);
  const int t = threadIdx.x / kRecurrentUnits, i = threadIdx.x % kRecurrentUnits;
  if (t < tokens && i < block.count) {
    const RowUnit unit(p, static_cast<unsigned>(block.first + i));
    const float bias = p.dt_bias ? *p.dt_bias.at<float>(unit.head) : 0.0f;
    const float raw = *p.dt.at<float>(row, token + t, unit.head) + bias;
    shared.steps[t][i] = token_step(p, raw, *p.A.at<float>(unit.head) * device::kLog2E);
  }
}

template <class S>
__device__ void store_tile(const RecurrentShared<S>& shared, const ForwardParams& p,
                           const RecurrentBlock& block, int64_t row, int64_t token, int tokens) {
  for (int i = threadIdx.x; i < tokens * kRecurrentColumns; i += kRecurrentThreads) {
    const int t = i / kRecurrentColumns, column = i % kRecurrentColumns;
    if (column / kWarpRows >= block.count) continue;
    const RowUnit unit(p, static_cast<unsigned>(block.first + column / kWarpRows));
    const int64_t row_p = unit.first_row + column % kWarpRows;
    if (row_p >= p.width) continue;
    float y = shared.y[t][column];
    if (p.D) {
      y += shared.x[t][column] *
           (p.D.ndim == 2 ? *p.D.at<float>(unit.head, row_p) : *p.D.at<float>(unit.head));
    }
    if (p.z) y *= device::silu(*p.z.at<float>(row, token + t, unit.head, row_p));
    *p.y.at<float>(row, token + t, unit.head, row_p) = y;
  }
}

template <class S>
__device__ void load_row(float (&to)[S::kStates], const float* from) {
#pragma unroll
  for (int k = 0; k < S::kStates; k += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + k);
    to[k] = four.x, to[k + 1] = four.y, to[k + 2] = four.z, to[k + 3] = four.w;
  }
}

// A block for every (sequence, 8 units of a group), units fastest.
template <class S>
__global__ void __launch_bounds__(kRecurrentThreads, 2)
    recurrent_kernel(const __grid_constant__ ForwardParams p, int64_t blocks) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<RecurrentShared<S>*>(memory);
  const int64_t s = blockIdx.x / blocks;
  const RecurrentBlock block(p, blockIdx.x % blocks);
  const Sequences::Range range = p.sequences.range(s);
  const int warp = threadIdx.x / device::kWarp;
  const bool busy = warp < block.count;
  const RowUnit unit(p, static_cast<unsigned>(block.first + (busy ? warp : 0)));
  StateRows<S> rows;
  rows.template load<false>(p.initial_state, p.initial_state.offset(s, unit.head), p, unit);
  const int column = warp * kWarpRows + rows.first;

  for (int64_t t = 0; t < range.length;) {
    const int64_t stop = p.checkpoints.next_stop(t, range.length);
    const int tokens = static_cast<int>(min(int64_t{kRecurrentTile}, stop - t));
    load_tile(shared, p, block, range.row, range.begin + t, tokens);
    __syncthreads();
    for (int i = 0; i < tokens && busy; ++i) {
      float B[S::kStates], C[S::kStates], x[S::kRows], sums[S::kRows];
      load_row<S>(B, &shared.B[i][rows.part * S::kStates]);
      load_row<S>(C, &shared.C[i][rows.part * S::kStates]);
#pragma unroll
      for (int r = 0; r < S::kRows; ++r) x[r] = shared.x[i][column + r];
      rows.advance(sums, shared.steps[i][warp], x, B, C);
      const float sum = device::warp_sums<S::kLanes>(sums, rows.part);
      if (rows.part < S::kRows) shared.y[i][column + rows.part] = sum;
    }
    t += tokens;
    if (busy && p.checkpoints && t % p.checkpoints.every == 0) {
      const Tensor& states = p.checkpoints.states;
      rows.template store<false>(
          states, p.checkpoints.offset(range, t) + unit.head * states.stride[2], p, unit);
    }
    __syncthreads();
    store_tile(shared, p, block, range.row, range.begin + t - tokens, tokens);
  }
  if (busy && p.final_state) {
    rows.template store<false>(p.final_state, p.final_state.offset(s, unit.head), p, unit);
  }
}

}  // namespace hax::ssd
