// What a thread block of ssd's forward by warpgroups keeps in shared memory, and how its warpgroups meet: one loads chunks,
// each of the others has a unit of work.
#pragma once

#include "device/named_barrier.cuh"
#include "device/warpgroup_shared.cuh"
#include "scan/ssd/ssd_kernel_chunk.cuh"

namespace hax::ssd {

inline constexpr int kWarpgroup = 4 * device::kWarp;
inline constexpr int kWarpgroupThreads = (kWarpgroupUnits + 1) * kWarpgroup;
inline constexpr int kStages = 3;  // chunks of B, C, x and decays

// Registers of a thread: 168 on average.
inline constexpr int kLoaderRegisters = 88, kUnitRegisters = 208;

// Tiles of kChunk rows in panels of 64 columns, rows of 128 bytes.
template <int N, bool kOutput>
class WarpgroupMemory {
 public:
  static constexpr int kPanelBytes = kChunk * 128;
  static constexpr int kStateBytes = N / 64 * kPanelBytes;  // of B, C or a unit's state

  __device__ explicit WarpgroupMemory(char* memory) : memory_(memory) {}
  static constexpr size_t bytes() { return kDecaysAt + kStages * kWarpgroupUnits * sizeof(Decays); }

  // Shared addresses.
  __device__ uint32_t B(int stage) const { return address(stage * kStageBytes); }
  __device__ uint32_t C(int stage) const { return B(stage) + kStateBytes; }
  __device__ uint32_t x(int stage, int unit) const {
    return B(stage) + (kOutput ? 2 : 1) * kStateBytes + unit * kPanelBytes;
  }
  // The unit's state (rows, N) in 16 bits.
  __device__ uint32_t state(int unit) const {
    return address(kStages * kStageBytes + unit * kStateBytes);
  }
  __device__ Decays& decays(int stage, int unit) const {
    return reinterpret_cast<Decays*>(memory_ + kDecaysAt)[stage * kWarpgroupUnits + unit];
  }

  // Barriers.
  __device__ static int full(int stage, int unit) { return 1 + stage * kWarpgroupUnits + unit; }
  __device__ static int empty(int stage) { return 1 + kStages * kWarpgroupUnits + stage; }
  __device__ static int own(int unit) { return 1 + kStages * (kWarpgroupUnits + 1) + unit; }

 private:
  static constexpr int kStageBytes =
      (kOutput ? 2 : 1) * kStateBytes + kWarpgroupUnits * kPanelBytes;
  static constexpr int kDecaysAt =
      kStages * kStageBytes + (kOutput ? kWarpgroupUnits * kStateBytes : 0);

  __device__ uint32_t address(int at) const { return device::shared_address(memory_) + at; }

  char* memory_;
};

__device__ inline int next_stage(int stage) { return stage + 1 < kStages ? stage + 1 : 0; }

}  // namespace hax::ssd
