// Step of ssd: a few tokens of each sequence, states in a pool.
#pragma once

#include "scan/ssd/ssd_kernel_rows.cuh"

namespace hax::ssd {

inline constexpr int kStepThreads = 64;
inline constexpr int kStepUnits = kStepThreads / device::kWarp;  // of a block

// `Count` neighbouring elements of a row of B or C from n on, 0 beyond its end.
template <class T, bool kVectors, int Count>
__device__ void load_states(float (&to)[Count], const Tensor& from, int64_t offset, int64_t n,
                            int64_t states) {
  const T* const row = static_cast<const T*>(from.data) + offset;
  if constexpr (kVectors) {
    constexpr int V = Count < device::kVectorElements<T> ? Count : device::kVectorElements<T>;
#pragma unroll
    for (int k = 0; k < Count; k += V) {
      float values[V] = {};
      if (n + k < states) device::unpack(values, device::load_packed<T, V>(row + n + k));
#pragma unroll
      for (int v = 0; v < V; ++v) to[k + v] = values[v];
    }
  } else {
#pragma unroll
    for (int k = 0; k < Count; ++k) {
      const int64_t at = (n + k) * from.stride[from.ndim - 1];
      to[k] = n + k < states ? device::to_float(row[at]) : 0.0f;
    }
  }
}

// A warp for every (sequence, head, 8 rows), rows fastest, a sequence's units in whole blocks. Inputs are read where they
// are needed: they are few beside the state. kVectors: whether states, B and C can be moved in vectors.
template <class T, class S, bool kVectors>
__global__ void __launch_bounds__(kStepThreads, S::kRows* S::kStates > 32 ? 8 : 12)
    step_kernel(const __grid_constant__ StepParams p, unsigned units, unsigned blocks) {
  const unsigned entry = blockIdx.x / blocks;
  const unsigned index = (blockIdx.x - entry * blocks) * kStepUnits + threadIdx.x / device::kWarp;
  const int64_t b = entry;
  const int64_t source = p.slots.source(b);
  if (index >= units || source < 0) return;
  const RowUnit unit(p, index);
  StateRows<S> rows;
  rows.template load<kVectors>(p.state, p.state.offset(source, unit.head), p, unit);
  const float rate = *p.A.at<float>(unit.head) * device::kLog2E;
  const float bias = p.dt_bias ? *p.dt_bias.at<float>(unit.head) : 0.0f;
  const int n = rows.part * S::kStates;
  // The row whose x this lane reads and, after the sum over a row's lanes, whose y it has.
  const int row = unit.first_row + rows.first + rows.part % S::kRows;
  const bool valid = row < p.width, writes = valid && rows.part < S::kRows;
  float skip = 0.0f;
  if (p.D && valid) {
    skip = p.D.ndim == 2 ? *p.D.at<float>(unit.head, row) : *p.D.at<float>(unit.head);
  }
#pragma unroll 1
  for (int64_t t = 0; t < p.tokens; ++t) {
    const float raw = device::load_any(p.dt, p.dt.offset(b, t, unit.head));
    const float own_x = valid ? device::to_float(*p.x.at<T>(b, t, unit.head, row)) : 0.0f;
    float B[S::kStates], C[S::kStates], x[S::kRows], sums[S::kRows];
    load_states<T, kVectors>(B, p.B, p.B.offset(b, t, unit.group), n, p.states);
    load_states<T, kVectors>(C, p.C, p.C.offset(b, t, unit.group), n, p.states);
    const TokenStep step = token_step(p, raw + bias, rate);
#pragma unroll
    for (int i = 0; i < S::kRows; ++i) x[i] = __shfl_sync(0xffffffffu, own_x, i, S::kLanes);
    rows.advance(sums, step, x, B, C);
    const int64_t slot = p.slots.destination(b, t, p.tokens);
    if (slot >= 0) {
      rows.template store<kVectors>(p.state, p.state.offset(slot, unit.head), p, unit);
    }
    float y = device::warp_sums<S::kLanes>(sums, rows.part) + skip * own_x;
    if (!writes) continue;
    if (p.z) y *= device::silu(device::to_float(*p.z.at<T>(b, t, unit.head, row)));
    *p.y.at<T>(b, t, unit.head, row) = device::from_float<T>(y);
  }
}

}  // namespace hax::ssd
