// Operands of warp-level matrix products for every activation type, read from tiles in shared memory. A lane holds the
// same positions whatever the type; fp32 is multiplied as split tf32. Tiles are row-major, rows `stride` elements apart
// and 16-byte aligned.
#pragma once

#include "device/element.cuh"
#include "device/mma.cuh"

namespace hax::device {

// 16 rows x 16 of the dimension that is summed over. Lane 4 r + c holds (r, 2c), (r, 2c + 1), then the same of row r + 8,
// then both 8 columns on.
template <class T>
struct OperandA {
  uint32_t words[4];
};
template <>
struct OperandA<float> {
  float values[8];
};

// 8 columns x 16 of the dimension that is summed over: (2c, r), (2c + 1, r), (2c + 8, r), (2c + 9, r).
template <class T>
struct OperandB {
  uint32_t words[2];
};
template <>
struct OperandB<float> {
  float values[4];
};

template <class T>
__device__ void multiply(float (&d)[4], const OperandA<T>& a, const OperandB<T>& b) {
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      // The order within the summed dimension is free as long as both operands share it.
      const float* const av = a.values + 4 * step;
      const SplitTf32 a0 = split_tf32(av[0]), a1 = split_tf32(av[2]), a2 = split_tf32(av[1]),
                      a3 = split_tf32(av[3]);
      const SplitTf32 b0 = split_tf32(b.values[2 * step]), b1 = split_tf32(b.values[2 * step + 1]);
      const uint32_t a_high[4] = {a0.high, a1.high, a2.high, a3.high};
      const uint32_t a_low[4] = {a0.low, a1.low, a2.low, a3.low};
      const uint32_t b_high[2] = {b0.high, b1.high}, b_low[2] = {b0.low, b1.low};
      mma_16x8x8_tf32(d, a_low, b_high);
      mma_16x8x8_tf32(d, a_high, b_low);
      mma_16x8x8_tf32(d, a_high, b_high);
    }
  } else {
    mma_16x8x16<T>(d, a.words, b.words);
  }
}

// Loads from shared memory, at an address in bytes. Loops that unroll over tiles should get their base from `launder`:
// otherwise the compiler computes every address before the loop and runs out of registers.
__device__ inline uint32_t launder(uint32_t address) {
  asm volatile("" : "+r"(address));
  return address;
}

template <bool kTransposed>
__device__ void load_matrices(uint32_t (&to)[4], uint32_t address) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
}
__device__ inline void load_pair(float (&to)[2], uint32_t address) {
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];"
               : "=f"(to[0]), "=f"(to[1])
               : "r"(address)
               : "memory");
}
__device__ inline float load_one(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// How a tile's elements become an operand.
enum class OperandFrom {
  a,             // left: rows [0, 16), columns [0, 16), which are summed over
  b,             // two right ones: columns are the tile's rows [0, 8) and [8, 16)
  b_transposed,  // two right ones: columns are the tile's columns [0, 8) and [8, 16)
};

// Where a lane's share of an operand begins, in bytes; rows are kStride elements apart.
template <class T, int kStride, OperandFrom from>
__device__ int operand_offset(int lane) {
  int row, column;
  if constexpr (type_of<T> == Type::fp32) {
    row = from == OperandFrom::b_transposed ? lane % 4 * 2 : lane / 4;
    column = from == OperandFrom::b_transposed ? lane / 4 : lane % 4 * 2;
  } else if constexpr (from == OperandFrom::b) {
    row = lane % 8 + lane / 16 * 8;
    column = lane / 8 % 2 * 8;
  } else {
    row = lane % 16;
    column = lane / 16 * 8;
  }
  return (row * kStride + column) * static_cast<int>(sizeof(T));
}

template <int kStride, class T>
__device__ void load_a(OperandA<T>& to, uint32_t address) {
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float pair[2];
      load_pair(pair, address + (i % 2 * 8 * kStride + i / 2 * 8) * 4);
      to.values[2 * i] = pair[0];
      to.values[2 * i + 1] = pair[1];
    }
  } else {
    load_matrices<false>(to.words, address);
  }
}

template <int kStride, class T>
__device__ void load_b(OperandB<T> (&to)[2], uint32_t address) {
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float pair[2];
      load_pair(pair, address + (i / 2 * 8 * kStride + i % 2 * 8) * 4);
      to[i / 2].values[i % 2 * 2] = pair[0];
      to[i / 2].values[i % 2 * 2 + 1] = pair[1];
    }
  } else {
    uint32_t words[4];
    load_matrices<false>(words, address);
    to[0] = {{words[0], words[1]}};
    to[1] = {{words[2], words[3]}};
  }
}

template <int kStride, class T>
__device__ void load_b_transposed(OperandB<T> (&to)[2], uint32_t address) {
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      to[i / 4].values[i % 4] =
          load_one(address + ((i % 4 / 2 * 8 + i % 2) * kStride + i / 4 * 8) * 4);
    }
  } else {
    uint32_t words[4];
    load_matrices<true>(words, address);
    to[0] = {{words[0], words[1]}};
    to[1] = {{words[2], words[3]}};
  }
}

// A product's 16 x 16 result (its left and right 8 columns) as the left operand of the next product.
template <class T>
__device__ OperandA<T> as_operand(const float (&left)[4], const float (&right)[4]) {
  OperandA<T> a;
  if constexpr (type_of<T> == Type::fp32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a.values[i] = left[i];
      a.values[4 + i] = right[i];
    }
  } else {
    const float values[8] = {left[0],  left[1],  left[2],  left[3],
                             right[0], right[1], right[2], right[3]};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Packed<T, 2> pair;
      const float two[2] = {values[2 * i], values[2 * i + 1]};
      store_packed<T, 2>(pair.values, two);
      memcpy(&a.words[i], &pair, sizeof(pair));
    }
  }
  return a;
}

}  // namespace hax::device
