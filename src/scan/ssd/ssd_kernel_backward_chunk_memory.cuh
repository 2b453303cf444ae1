// Shared memory of ssd's backward by warpgroups: tiles of rows of 64 16-bit elements, whose 16-byte groups are exchanged by
// the row as warpgroup products take them.
#pragma once

#include "device/warpgroup.cuh"
#include "scan/ssd/ssd_kernel_backward_sums.cuh"

namespace hax::ssd {

inline constexpr int kChunkWarps = 16, kChunkThreads = kChunkWarps * device::kWarp;
inline constexpr int kPanelColumns = 64;

// A matrix in panels of 64 columns.
template <class T, int kRows, int kColumns>
struct alignas(1024) Panels {
  static constexpr int kPanelBytes = kRows * 128;
  T elements[kRows * kColumns];

  __device__ uint32_t address() const { return device::shared_address(elements); }
  // Bytes from the start to a pair of neighbours.
  static __device__ int offset(int row, int column) {
    return column / kPanelColumns * kPanelBytes + row * 128 + ((column / 8 & 7) ^ (row & 7)) * 16 +
           column % 8 * 2;
  }
  __device__ uint32_t word(int row, int column) const {
    return *reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(elements) +
                                              offset(row, column));
  }
};

// Where a lane points ldmatrix for 16 rows and 16 columns: relative to the first row's start (a multiple of 16) in a panel,
// to be combined by xor with 32 times the number of the 16 columns. transposed: the tile's rows are the operand's columns.
__device__ inline int lane_offset(int lane, bool transposed = false) {
  return transposed ? (lane / 16 * 8 + lane % 8) * 128 + ((lane / 8 & 1) ^ (lane & 7)) * 16
                    : lane % 16 * 128 + (lane / 16 ^ (lane & 7)) * 16;
}

// The same for rows that are columns of a right operand.
__device__ inline int right_lane_offset(int lane) {
  return (lane % 8 + lane / 16 * 8) * 128 + ((lane / 8 & 1) ^ (lane & 7)) * 16;
}

template <class S>
struct ChunkShared {
  using T = typename S::T;
  static constexpr int Q = S::kTokens, kBands = Q / 16;
  using Tokens = Panels<T, Q, S::kWidth>;
  using States = Panels<T, S::kWidth, S::kStates>;
  using Rows = Panels<T, Q, S::kStates>;
  using Quarter = Panels<T, Q / 2, Q / 2>;
  Rows B, C;
  Tokens x[2], g[2];  // of the unit and of the next one; dx takes the place of x
  States h, dh;
  // Rows s, columns t: the first half of s with both halves of t, then the second halves. What is above the diagonal is 0.
  Quarter mix[3], dscores[3];  // mix without dt
  StepRows<S> steps[3];
  float row[kBands][Q],
      column[kBands][Q];  // pairs' contributions to y . g: of t by bands of s, of s by those of t
  float own[Q], skip[Q];  // a token with itself, and x . g
  // Of a unit, once all pairs are known.
  float later[Q], direct[Q];       // by token: less those as s; as s without dt
  float from_h[Q], from_dh[Q];     // through the states; the latter without dt
  float through[kChunkWarps / 2];  // h . dh
  float to_end[Q], from_start[Q];  // decays
  device::Weight<T> to_end_dt[Q], from_start_T[Q];
  float D[S::kWidth];
  float skipped;  // x . g of all tokens
};

// Like fetch, to panels.
template <int kRows, int kColumns, int kThreads, class T>
__device__ void fetch_panels(Team<kThreads> team, Panels<T, kRows, kColumns>& to,
                             const Rows<T>& from) {
  using Tile = Panels<T, kRows, kColumns>;
  char* const base = reinterpret_cast<char*>(to.elements);
  if (!from.vectors) {
#pragma unroll 1
    for (int i = team.thread; i < kRows * kColumns; i += kThreads) {
      const int r = i / kColumns, c = i % kColumns;
      const bool valid = r < from.rows && c < from.columns;
      *reinterpret_cast<T*>(base + Tile::offset(r, c)) =
          valid ? from.data[r * from.stride + c * from.step] : T{};
    }
    return;
  }
  constexpr int kPerRow = kColumns / 8, kRowsAtOnce = kThreads / kPerRow;
  static_assert(kRowsAtOnce % 8 == 0);
  const int first = team.thread / kPerRow, column = team.thread % kPerRow * 8;
  const int rows = column < from.columns ? from.rows - first : 0;
  const T* at = from.data + first * from.stride + column;
  const uint32_t place = device::shared_address(base) + Tile::offset(first, column);
#pragma unroll
  for (int r = 0; r < kRows; r += kRowsAtOnce) {
    // Nothing is read where there is no row.
    device::copy_async_16(place + r * 128, at, r < rows);
    at += kRowsAtOnce * from.stride;
  }
}

// A compact matrix.
template <int kRows, int kColumns, int kThreads, class T>
__device__ void fetch_compact_panels(Team<kThreads> team, Panels<T, kRows, kColumns>& to,
                                     const T* from) {
  constexpr int kPerRow = kColumns / 8, kRowsAtOnce = kThreads / kPerRow;
  static_assert(kRowsAtOnce % 8 == 0 && kRows % kRowsAtOnce == 0);
  const uint32_t place = to.address() + to.offset(team.thread / kPerRow, team.thread % kPerRow * 8);
  from += team.thread * 8;
#pragma unroll
  for (int r = 0; r < kRows; r += kRowsAtOnce) {
    device::copy_async_16(place + r * 128, from + r * kColumns);
  }
}

}  // namespace hax::ssd
