// The state of a unit of ssd's forward in its warps' registers, and its ways to and from memory.
#pragma once

#include "device/element.cuh"
#include "device/warp.cuh"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

// Keeps the compiler from holding on to numbers made from these (packed or unpacked), for which there are no registers,
// and from reading them earlier than this.
template <class T, int M, int K>
__device__ void forget_derived(T (&values)[M][K]) {
#pragma unroll
  for (int i = 0; i < M; ++i) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if constexpr (sizeof(T) == 4 && T(0.5) != T(0)) {
        asm volatile("" : "+f"(values[i][k]));
      } else {
        asm volatile("" : "+r"(values[i][k]));
      }
    }
  }
}

// 16 rows of a head's state, as products leave them: lane 4 r + c has rows r and r + 8, states 8 i + 2 c and + 1.
template <int N>
struct UnitState {
  float h[N / 8][4];
  int head = 0, row = 0;  // the warp's first row of the head
  bool busy = false;      // whether there is a head

  // `axis`: of the heads. 0 where `states` is none.
  __device__ void load_state(const Inputs& in, const Tensor& states, int64_t offset, int axis) {
    const auto load = [&]<class S>(const S* data) {
      each(in, states, offset, axis, [&](float& value, bool valid, int64_t at) {
        value = valid ? device::to_float(data[at]) : 0.0f;
      });
    };
    switch (states.type) {
      case Type::none: return clear();
      case Type::bf16: return load(static_cast<const bf16*>(states.data));
      case Type::fp16: return load(static_cast<const fp16*>(states.data));
      default: return load(static_cast<const float*>(states.data));
    }
  }
  __device__ void store_state(const Inputs& in, const Tensor& states, int64_t offset, int axis) {
    const auto store = [&]<class S>(S* data) {
      each(in, states, offset, axis, [&](float& value, bool valid, int64_t at) {
        if (valid) data[at] = device::from_float<S>(value);
      });
    };
    switch (states.type) {
      case Type::bf16: return store(static_cast<bf16*>(states.data));
      case Type::fp16: return store(static_cast<fp16*>(states.data));
      default: return store(static_cast<float*>(states.data));
    }
  }
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < N / 8; ++i) h[i][0] = h[i][1] = h[i][2] = h[i][3] = 0.0f;
  }

  // States of slots in the workspace, each lane's part as it holds it; a slot has `warps` of them. h becomes h decay +
  // the slot's.
  __device__ void load_workspace(const float* states, int64_t slot, int warps, int warp,
                                 float decay) {
    const float4* const from = reinterpret_cast<const float4*>(states) + part(slot, warps, warp);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      const float4 other = __ldcg(from + i * device::kWarp);
      h[i][0] = h[i][0] * decay + other.x, h[i][1] = h[i][1] * decay + other.y;
      h[i][2] = h[i][2] * decay + other.z, h[i][3] = h[i][3] * decay + other.w;
    }
  }
  __device__ void store_workspace(float* states, int64_t slot, int warps, int warp) const {
    float4* const to = reinterpret_cast<float4*>(states) + part(slot, warps, warp);
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
      to[i * device::kWarp] = make_float4(h[i][0], h[i][1], h[i][2], h[i][3]);
    }
  }

 private:
  __device__ static int64_t part(int64_t slot, int warps, int warp) {
    return (slot * warps + warp) * (N / 8) * device::kWarp + threadIdx.x % device::kWarp;
  }

  template <class F>
  __device__ void each(const Inputs& in, const Tensor& states, int64_t offset, int axis, F&& f) {
    const int64_t row_stride = states.stride[axis + 1];
    int64_t stride = states.stride[axis + 2];
    asm volatile("" : "+l"(stride));  // or else every element's address is kept in registers
    const int64_t first = offset + head * states.stride[axis];
    const int lane = threadIdx.x % device::kWarp;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t own = row + lane / 4 + e / 2 * 8;
      int64_t n = lane % 4 * 2 + e % 2, at = first + own * row_stride + n * stride;
#pragma unroll
      for (int i = 0; i < N / 8; ++i) {
        f(h[i][e], busy && own < in.width && n < in.states, at);
        n += 8;
        at += 8 * stride;
      }
    }
  }
};

}  // namespace hax::ssd
