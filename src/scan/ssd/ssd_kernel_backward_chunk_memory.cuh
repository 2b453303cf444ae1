// Shared memory of ssd's backward by warpgroups: tiles of rows of 64 16-bit elements, whose 16-byte groups are exchanged by
// the row as warpgroup products take them.
#pragma once

#include "device/mbarrier.cuh"
#include "device/named_barrier.cuh"
#include "device/warpgroup_registers.cuh"
#include "device/warpgroup_shapes.cuh"
#include "scan/ssd/ssd_kernel_backward_sums.cuh"

namespace hax::ssd {

inline constexpr int kWarpgroup = 4 * device::kWarp;
inline constexpr int kChunkThreads = 4 * kWarpgroup;
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
// to be combined by xor with 32 times the number of the 16 columns.
__device__ inline int lane_offset(int lane) {
  return lane % 16 * 128 + (lane / 16 ^ (lane & 7)) * 16;
}
// The same for rows that are columns of a right operand.
__device__ inline int right_lane_offset(int lane) {
  return (lane % 8 + lane / 16 * 8) * 128 + ((lane / 8 & 1) ^ (lane & 7)) * 16;
}

// Halves of a chunk in tiles of pairs: the first half of later tokens t and of earlier ones s, the second half of t with the
// first of s, the second of both.
enum Quarter { kFirst, kAcross, kSecond, kQuarters };

template <class S>
struct ChunkShared {
  using T = typename S::T;
  static constexpr int Q = S::kTokens, kHalf = Q / 2, kBands = Q / 16;
  using Tokens = Panels<T, Q, S::kWidth>;
  using States = Panels<T, S::kWidth, S::kStates>;
  using Rows = Panels<T, Q, S::kStates>;
  using Pairs = Panels<T, kHalf, kHalf>;

  Rows B, C;
  Tokens x[2], g[2];  // of a unit and of the next one
  States h, dh;
  // Rows t, columns s; what is above the diagonal is 0. dx goes out through mix.
  Pairs mix[kQuarters], dscores[kQuarters];
  struct alignas(16) Steps {
    float dt[Q];
    float sum[Q];  // of dt A log2(e) up to a token
    float
        left[Q];  // the same less log2(dt): 2^(sum[t] - left[s]) is dt_s and the decay from s to t
    float to_end[Q];      // the decay up to the chunk's end
    float from_start[Q];  // the decay since the chunk's start
    float A, D;           // D 0 where it has rows
  } steps[2];
  // Gradients by token: of t through pairs, of s through pairs by 16 tokens t (what no pair has stays 0), of a token with
  // itself without dt, through the states (through dh without dt).
  struct alignas(16) Sums {
    float rows[Q], columns[kBands][Q], own[Q], from_h[Q], from_dh[Q];
    float skip[4];  // x . g, by warps
  } sums;
  float through[2][4];     // h . dh, by warps
  float D[S::kWidth];      // where it has rows
  GradientBlock<S> block;  // here, for it to take no registers
  uint64_t group_full, tokens_full[2], tokens_empty[2], states_full[2], states_empty[2], pairs_full,
      pairs_empty;

  // By all threads before anything else.
  __device__ void start(const GradientBlock<S>& at) {
    constexpr int kWarps = kChunkThreads / device::kWarp;
    if (threadIdx.x == 0) {
      block = at;
      device::init_mbarrier(group_full, kChunkThreads);
      for (int i = 0; i < 2; ++i) {
        device::init_mbarrier(tokens_full[i], 4 * kWarpgroup);  // two of threads, two of copies
        device::init_mbarrier(tokens_empty[i], kWarps);
        device::init_mbarrier(states_full[i], kWarpgroup);
        device::init_mbarrier(states_empty[i], i == 0 ? kWarps / 2 : 3 * kWarps / 4);
      }
      device::init_mbarrier(pairs_full, kWarpgroup);
      device::init_mbarrier(pairs_empty, 3 * kWarps / 4);
    }
    for (int i = threadIdx.x * 4; i < static_cast<int>(sizeof(mix)); i += kChunkThreads * 4) {
      device::store_shared(device::shared_address(mix) + i, 0u);
      device::store_shared(device::shared_address(dscores) + i, 0u);
    }
    for (int i = threadIdx.x; i < kBands * Q; i += kChunkThreads) sums.columns[i / Q][i % Q] = 0.0f;
    device::publish_to_products();
    __syncthreads();
  }
};

// What one thread block's warpgroups have in common.
template <class S>
struct ChunkContext {
  ChunkShared<S>& shared;
  const BackwardParams& p;
  const CudaBackwardPlan& plan;
  const BackwardAccess& access;

  __device__ const GradientBlock<S>& block() const { return shared.block; }
  __device__ const ChunkAt& chunk() const { return shared.block.chunk; }
  __device__ int count() const { return static_cast<int>(block().last - block().first); }
  __device__ Unit unit(int i) const { return Unit(p, plan.slices, S::kWidth, block().first + i); }
  // Of the head in the plan's steps and decays.
  __device__ int64_t row(const Unit& unit) const { return chunk().place * p.heads + unit.head; }
};

// One arrival for a warp, all of whose lanes are done.
__device__ inline void arrive_by_warp(uint64_t& barrier) {
  __syncwarp();
  if (threadIdx.x % device::kWarp == 0) device::arrive(barrier);
}
// Waits for something that products will read.
__device__ inline void wait_for_operands(uint64_t& barrier, int turn) {
  device::wait(barrier, turn % 2);
  device::publish_to_products();
}

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
