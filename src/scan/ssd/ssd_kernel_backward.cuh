// What ssd's backward kernels share: sizes, where a chunk lies, tiles on their way to shared memory.
#pragma once

#include "device/async_copy.cuh"
#include "device/element.cuh"
#include "device/math.cuh"
#include "device/mma_tile.cuh"
#include "device/warp.cuh"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

template <class T_, int kTokens_, int kStates_, int kWidth_, int kStages_>
struct BackwardShape {
  using T = T_;
  static constexpr int kTokens = kTokens_;     // of a tile
  static constexpr int kChunk = 2 * kTokens_;  // tokens of a chunk
  static constexpr int kStates = kStates_, kWidth = kWidth_, kStages = kStages_;
  static constexpr bool kExact = type_of<T> == Type::fp32;
  static constexpr int kPad = device::kVectorElements<T>;
  // Elements of a row in shared memory.
  static constexpr int kStateRow = kStates + kPad, kWidthRow = kWidth + kPad,
                       kTokenRow = kTokens + kPad;
  static constexpr int kStateSize = kStates * kWidth;
};

// Which tensors can be moved 16 bytes at a time.
struct BackwardAccess {
  bool x, dy, z, dx, B, C;
};

struct ChunkAt {
  int64_t place, s;           // among all chunks; its sequence
  Sequences::Range sequence;  // the tokens of that
  int64_t first;              // token of the sequence
  int tokens;                 // at most a chunk's; 0: the place is unused

  __device__ ChunkAt(const Sequences& sequences, const Chunks& chunks, int64_t at)
      : place(at), s(chunks.sequence_at(sequences, at)), sequence(sequences.range(s)) {
    first = (at - chunks.first_of(sequences, s)) * chunks.tokens;
    const int64_t rest = sequence.length - first;
    tokens = static_cast<int>(rest < 0 ? 0 : rest < chunks.tokens ? rest : chunks.tokens);
  }
  __device__ int64_t token() const { return sequence.begin + first; }
};

// A head's slice of width.
struct Unit {
  int64_t index, head;
  int first, width;  // elements of P
  __device__ Unit(const Inputs& in, int64_t slices, int whole, int64_t unit)
      : index(unit), head(unit / slices), first(static_cast<int>(unit % slices) * whole) {
    width = static_cast<int>(in.width) - first < whole ? static_cast<int>(in.width) - first : whole;
  }
};

// Rows of a matrix in global memory.
template <class T>
struct Rows {
  const T* data;
  int64_t stride, step;  // from row to row, from element to element
  int rows, columns;     // that there are; others read as 0
  bool vectors;
};

template <class T>
__device__ Rows<T> token_rows(const Tensor& tensor, bool vectors, int64_t row, int64_t token,
                              int tokens, int64_t member, int first, int columns) {
  if (tokens <= 0) return {tensor.at<T>(), 0, 0, 0, 0, vectors};
  return {tensor.at<T>(row, token, member, first),
          tensor.stride[1],
          tensor.stride[3],
          tokens,
          columns,
          vectors};
}

// Brings a matrix to shared memory; there after this thread's wait_for_copies and a barrier.
template <int kThreads, int kRows, int kColumns, int kRow, class T>
__device__ void fetch(T* to, const Rows<T>& from) {
  constexpr int V = device::kVectorElements<T>;
#pragma unroll 4
  for (int i = threadIdx.x; i < kRows * kColumns / V; i += kThreads) {
    const int r = i / (kColumns / V), c = i % (kColumns / V) * V;
    if (from.vectors) {
      const bool valid = r < from.rows && c < from.columns;
      device::copy_async_16(to + r * kRow + c, valid ? from.data + r * from.stride + c : from.data,
                            valid);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const bool valid = r < from.rows && c + v < from.columns;
        to[r * kRow + c + v] = valid ? from.data[r * from.stride + (c + v) * from.step] : T{};
      }
    }
  }
}

// The same for the product of dy and the gate.
template <int kThreads, int kRows, int kColumns, int kRow, class T>
__device__ void fetch_gated(T* to, const Rows<T>& dy, const Rows<T>& z) {
  for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
    const int r = i / kColumns, c = i % kColumns;
    float value = 0.0f;
    if (r < dy.rows && c < dy.columns) {
      value = device::to_float(dy.data[r * dy.stride + c * dy.step]) *
              device::silu(device::to_float(z.data[r * z.stride + c * z.step]));
    }
    to[r * kRow + c] = device::from_float<T>(value);
  }
}

// The gradient of y before the gate, tokens [token, token + tokens) of a unit.
template <class S, int kThreads>
__device__ void fetch_output_gradient(typename S::T* to, const BackwardParams& p,
                                      const BackwardAccess& access, int64_t row, int64_t token,
                                      int tokens, const Unit& unit) {
  using T = typename S::T;
  const Rows<T> dy =
      token_rows<T>(p.dy, access.dy, row, token, tokens, unit.head, unit.first, unit.width);
  if (!p.z) return fetch<kThreads, S::kTokens, S::kWidth, S::kWidthRow>(to, dy);
  fetch_gated<kThreads, S::kTokens, S::kWidth, S::kWidthRow>(
      to, dy, token_rows<T>(p.z, access.z, row, token, tokens, unit.head, unit.first, unit.width));
}

// Bytes to shared memory, 16 at a time.
template <int kThreads>
__device__ void fetch_bytes(void* to, const void* from, int bytes) {
  for (int i = threadIdx.x * 16; i < bytes; i += kThreads * 16) {
    device::copy_async_16(static_cast<char*>(to) + i, static_cast<const char*>(from) + i);
  }
}

// A compact matrix to rows of kRow elements.
template <int kThreads, int kRows, int kColumns, int kRow, class T>
__device__ void fetch_compact(T* to, const T* from) {
  fetch<kThreads, kRows, kColumns, kRow>(to, Rows<T>{from, kColumns, 1, kRows, kColumns, true});
}

template <class T>
__device__ float load_scalar(const T* from) {
  return device::to_float(*from);
}

}  // namespace hax::ssd
