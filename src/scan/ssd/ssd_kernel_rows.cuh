// The recurrence token by token in fp32: what step and the forward of fp32 activations share. A warp holds 8 rows of a
// head's state, Lanes neighbouring lanes a row's states, States of them each.
#pragma once

#include "device/element.cuh"
#include "device/math.cuh"
#include "device/warp.cuh"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

inline constexpr int kWarpRows = 8;

template <int Lanes, int States>
struct RowShape {
  static constexpr int kLanes = Lanes;
  static constexpr int kStates = States;                           // of a lane and row
  static constexpr int kRows = kWarpRows * Lanes / device::kWarp;  // of a lane
  static constexpr int kAllStates = Lanes * States;                // N, rounded up
};

// 8 rows of one head.
struct RowUnit {
  int head, group;
  int first_row;

  __device__ RowUnit(const Inputs& in, unsigned index) {
    const unsigned units = (static_cast<unsigned>(in.width) + kWarpRows - 1) / kWarpRows;
    head = static_cast<int>(index / units);
    group =
        static_cast<int>(static_cast<unsigned>(head) / static_cast<unsigned>(in.heads / in.groups));
    first_row = static_cast<int>(index % units) * kWarpRows;
  }
};

inline int64_t row_units(const Inputs& in) {
  return in.heads * ((in.width + kWarpRows - 1) / kWarpRows);
}

__device__ inline float clamped_step(const Inputs& in, float raw) {
  const float dt = device::softplus_accurate(raw);
  // fminf and fmaxf would drop NaN.
  return dt < in.dt_min ? in.dt_min : dt > in.dt_max ? in.dt_max : dt;
}

// One token of one head, as every lane of its warp sees it.
struct TokenStep {
  float dt;
  float decay_less_1;
};

__device__ inline TokenStep token_step(const Inputs& in, float raw, float rate_log2) {
  const float dt = clamped_step(in, raw);
  return {dt, device::exp2m1(dt * rate_log2)};
}

template <class S>
struct StateRows {
  float h[S::kRows][S::kStates];
  int part;   // of the lanes that hold a row
  int first;  // row of the unit

  __device__ StateRows() {
    const int lane = threadIdx.x % device::kWarp;
    part = lane % S::kLanes;
    first = lane / S::kLanes * S::kRows;
  }

  // h of every row decays and takes in dt x B; C . h of row i goes to sums[i], this lane's share.
  __device__ void advance(float (&sums)[S::kRows], const TokenStep& step,
                          const float (&x)[S::kRows], const float (&B)[S::kStates],
                          const float (&C)[S::kStates]) {
#pragma unroll
    for (int i = 0; i < S::kRows; ++i) {
      const float input = step.dt * x[i];
      sums[i] = 0.0f;
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) {
        // h (decay - 1) + h: a decay near 1 rounded to fp32 would forget at the wrong rate.
        h[i][k] += fmaf(h[i][k], step.decay_less_1, input * B[k]);
        sums[i] += C[k] * h[i][k];
      }
    }
  }

  // `offset`: of the head's state (P, N). 0 where `states` is none.
  template <bool kVectors>
  __device__ void load(const Tensor& states, int64_t offset, const Inputs& in,
                       const RowUnit& unit) {
    if constexpr (kVectors) {
      switch (states.type) {
        case Type::fp16: return load_vectors<fp16>(states, offset, in, unit);
        case Type::bf16: return load_vectors<bf16>(states, offset, in, unit);
        default: return load_vectors<float>(states, offset, in, unit);
      }
    } else {
      each(states, offset, in, unit, [&](float& value, bool valid, int64_t at) {
        value = valid && states ? device::load_any(states, at) : 0.0f;
      });
    }
  }

  template <bool kVectors>
  __device__ void store(const Tensor& states, int64_t offset, const Inputs& in,
                        const RowUnit& unit) {
    if constexpr (kVectors) {
      switch (states.type) {
        case Type::fp16: return store_vectors<fp16>(states, offset, in, unit);
        case Type::bf16: return store_vectors<bf16>(states, offset, in, unit);
        default: return store_vectors<float>(states, offset, in, unit);
      }
    } else {
      each(states, offset, in, unit, [&](float& value, bool valid, int64_t at) {
        if (valid) device::store_any(states, at, value);
      });
    }
  }

 private:
  // An access moves up to 16 bytes; it lies inside N wholly or not at all.
  template <class T>
  static constexpr int kVector =
      S::kStates < device::kVectorElements<T> ? S::kStates : device::kVectorElements<T>;

  template <class F>
  __device__ void each(const Tensor& states, int64_t offset, const Inputs& in, const RowUnit& unit,
                       F&& f) {
    const int axis = states.ndim - 2;
    const int64_t row_stride = states ? states.stride[axis] : 0;
    int64_t stride = states ? states.stride[axis + 1] : 0;
    asm volatile("" : "+l"(stride));  // or else every element's address is kept in registers
    int64_t row_at = offset + (unit.first_row + first) * row_stride + part * S::kStates * stride;
#pragma unroll
    for (int i = 0; i < S::kRows; ++i) {
      const int row = unit.first_row + first + i;
      int64_t at = row_at;
#pragma unroll
      for (int k = 0; k < S::kStates; ++k) {
        const int n = part * S::kStates + k;
        f(h[i][k], row < in.width && n < in.states, at);
        at += stride;
      }
      row_at += row_stride;
    }
  }

  // Calls f(V of the lane's states, whether the tensor has them, where) for every access.
  template <class T, class F>
  __device__ void each_vector(const Tensor& states, int64_t offset, const Inputs& in,
                              const RowUnit& unit, F&& f) {
    constexpr int V = kVector<T>;
    const int row = unit.first_row + first, n = part * S::kStates;
    const int64_t row_stride = states.stride[states.ndim - 2];
    T* at = static_cast<T*>(states.data) + offset + row * row_stride + n;
    const int rows = static_cast<int>(in.width) - row, left = static_cast<int>(in.states) - n;
#pragma unroll
    for (int i = 0; i < S::kRows; ++i) {
#pragma unroll
      for (int k = 0; k < S::kStates; k += V) {
        f(reinterpret_cast<float(&)[V]>(h[i][k]), i < rows && k < left, at + k);
      }
      at += row_stride;
    }
  }

  template <class T>
  __device__ void load_vectors(const Tensor& states, int64_t offset, const Inputs& in,
                               const RowUnit& unit) {
    each_vector<T>(states, offset, in, unit, [](auto& values, bool valid, const T* from) {
      constexpr int V = kVector<T>;
      device::Packed<T, V> packed = {};
      if (valid) packed = device::load_streamed<T, V>(from);
      device::unpack(values, packed);
    });
  }

  template <class T>
  __device__ void store_vectors(const Tensor& states, int64_t offset, const Inputs& in,
                                const RowUnit& unit) {
    each_vector<T>(states, offset, in, unit, [](auto& values, bool valid, T* to) {
      if (valid) device::store_streamed<T>(to, values);
    });
  }
};

}  // namespace hax::ssd
