// What ssd's backward kernels share: sizes, where a chunk lies, tiles on their way to shared memory.
#pragma once

#include "device/async_copy.cuh"
#include "device/element.cuh"
#include "device/math.cuh"
#include "device/mma_tile.cuh"
#include "device/warp.cuh"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

template <class T_, int kTokens_, int kStates_, int kWidth_, Gradients kGradients_>
struct BackwardShape {
  using T = T_;
  static constexpr int kTokens = kTokens_;  // of a chunk
  static constexpr int kStates = kStates_, kWidth = kWidth_;
  static constexpr Gradients kGradients = kGradients_;
  static constexpr bool kExact = type_of<T> == Type::fp32;
  static constexpr int kPad = device::kVectorElements<T>;
  // Elements of a row in shared memory.
  static constexpr int kStateRow = kStates + kPad, kWidthRow = kWidth + kPad,
                       kTokenRow = kTokens + kPad;
  static constexpr int kStateSize = kStates * kWidth;
  // Warps of a block that multiply, in the kernels of states (which has two more), of dC, and of all the rest.
  static constexpr int kWalkWarps = kStateSize <= 16 * 32 ? 2 : 8;
  static constexpr int kOutputWarps = kStates <= 32 ? 4 : 8;
  static constexpr int kInputWarps = 8;
};

// Which tensors can be moved 16 bytes at a time.
struct BackwardAccess {
  bool x, g, dx, B, C;
  bool dB, dC;  // 2 elements at a time
};

// Blocks are counted in 31 bits, so what divides their number needs no 64.
__device__ inline uint32_t narrow(int64_t value) { return static_cast<uint32_t>(value); }

// The packed sequence that a place belongs to, by all lanes of a warp, which ask for 32 at a time.
__device__ inline int64_t sequence_at(const Sequences& sequences, const Chunks& chunks,
                                      int64_t place) {
  int64_t low = 0;
  for (uint32_t count = narrow(sequences.count()); count > 1;) {
    const uint32_t step = (count + device::kWarp - 1) / device::kWarp;
    const uint32_t ahead = threadIdx.x % device::kWarp * step;
    const bool reached = ahead < count && chunks.first_of(sequences, low + ahead) <= place;
    const uint32_t sure = (__popc(__ballot_sync(0xffffffffu, reached)) - 1) * step;
    low += sure;
    count = min(step, count - sure);
  }
  return low;
}

struct ChunkAt {
  int64_t place, s;           // among all chunks; its sequence
  Sequences::Range sequence;  // the tokens of that
  int64_t first;              // token of the sequence
  int tokens;                 // at most a chunk's; 0: the place is unused

  __device__ ChunkAt(const Sequences& sequences, const Chunks& chunks, int64_t at)
      : place(at),
        s(sequences.packed() ? sequence_at(sequences, chunks, at)
                             : narrow(at) / narrow(chunks.per_row(sequences))),
        sequence(sequences.range(s)) {
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
      : index(unit), head(unit), first(0) {
    if (slices > 1) {
      const int number = static_cast<int>(unit), count = static_cast<int>(slices);
      head = number / count;
      first = number % count * whole;
    }
    width = static_cast<int>(in.width) - first < whole ? static_cast<int>(in.width) - first : whole;
  }
  __device__ int64_t slice(int whole) const { return first / whole; }
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

// Some threads of a block that do a job together.
template <int kCount_>
struct Team {
  static constexpr int kCount = kCount_;
  int thread;
};

// fetch for any strides, row after row of the shared memory.
template <int kRows, int kColumns, int kRow, int kThreads, class T>
__device__ __noinline__ void fetch_elements(Team<kThreads> team, T* to, const Rows<T>& from) {
#pragma unroll 1
  for (int i = team.thread; i < kRows * kColumns; i += kThreads) {
    const int r = i / kColumns, c = i % kColumns;
    const bool valid = r < from.rows && c < from.columns;
    to[r * kRow + c] = valid ? from.data[r * from.stride + c * from.step] : T{};
  }
}

// Brings a matrix to shared memory; there after the team's wait_for_copies and a barrier.
template <int kRows, int kColumns, int kRow, int kThreads, class T>
__device__ void fetch(Team<kThreads> team, T* to, const Rows<T>& from) {
  constexpr int V = device::kVectorElements<T>, kPerRow = kColumns / V;
  if (!from.vectors) return fetch_elements<kRows, kColumns, kRow>(team, to, from);
  static_assert(kThreads % kPerRow == 0 || kPerRow % kThreads == 0);
  constexpr int kRowsAtOnce = kThreads > kPerRow ? kThreads / kPerRow : 1;
  constexpr int kColumnsAtOnce = kThreads > kPerRow ? kColumns : kThreads * V;
  const int first = team.thread / kPerRow;
#pragma unroll
  for (int c = 0; c < kColumns; c += kColumnsAtOnce) {
    const int column = c + team.thread % kPerRow * V;
    const int rows = column < from.columns ? from.rows : 0;
    const T* at = from.data + first * from.stride + column;
    T* const base = to + first * kRow + column;
    const auto move = [&](bool all) {
#pragma unroll
      for (int r = 0; r < kRows; r += kRowsAtOnce) {
        if (kRows % kRowsAtOnce != 0 && r + first >= kRows) break;
        const bool valid = all || r + first < rows;
        device::copy_async_16(base + r * kRow, valid ? at : from.data, valid);
        at += kRowsAtOnce * from.stride;
      }
    };
    if (from.rows == kRows && from.columns == kColumns) {
      move(true);
    } else {
      move(false);
    }
  }
}

// A matrix in global memory that is written.
template <class T>
struct OutputRows {
  T* data;
  int64_t stride, step;
  int rows, columns;
  bool vectors;
};

template <int kRows, int kColumns, int kRow, int kThreads, class T>
__device__ void store_rows(Team<kThreads> team, const OutputRows<T>& to, const T* from) {
  constexpr int V = device::kVectorElements<T>, kPerRow = kColumns / V;
  if (to.vectors && kThreads % kPerRow == 0) {
    constexpr int kRowsAtOnce = kThreads / kPerRow > 0 ? kThreads / kPerRow : 1;
    const int first = team.thread / kPerRow, c = team.thread % kPerRow * V;
    const int rows = c < to.columns ? to.rows : 0;
    T* at = to.data + first * to.stride + c;
    from += first * kRow + c;
#pragma unroll
    for (int r = 0; r < kRows; r += kRowsAtOnce) {
      if (r + first < rows) {
        *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(from + r * kRow);
      }
      at += kRowsAtOnce * to.stride;
    }
  } else {
#pragma unroll 1
    for (int i = team.thread; i < kRows * kColumns; i += kThreads) {
      const int r = i / kColumns, c = i % kColumns;
      if (r < to.rows && c < to.columns) to.data[r * to.stride + c * to.step] = from[r * kRow + c];
    }
  }
}

// Tokens [token, token + tokens) of a unit of x, or of what has its shape.
template <class S, int kThreads>
__device__ void fetch_unit_tokens(Team<kThreads> team, typename S::T* to, const Tensor& from,
                                  bool vectors, int64_t row, int64_t token, int tokens,
                                  const Unit& unit) {
  fetch<S::kTokens, S::kWidth, S::kWidthRow>(
      team, to,
      token_rows<typename S::T>(from, vectors, row, token, tokens, unit.head, unit.first,
                                unit.width));
}

// Bytes to shared memory, 16 at a time.
template <int kThreads>
__device__ void fetch_bytes(Team<kThreads> team, void* to, const void* from, int bytes) {
#pragma unroll 4
  for (int i = team.thread * 16; i < bytes; i += kThreads * 16) {
    device::copy_async_16(static_cast<char*>(to) + i, static_cast<const char*>(from) + i);
  }
}

// A compact matrix to rows of kRow elements.
template <int kRows, int kColumns, int kRow, int kThreads, class T>
__device__ void fetch_compact(Team<kThreads> team, T* to, const T* from) {
  fetch<kRows, kColumns, kRow>(team, to, Rows<T>{from, kColumns, 1, kRows, kColumns, true});
}

}  // namespace hax::ssd
