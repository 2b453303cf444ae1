// What a thread block of ssd's forward by warpgroups keeps in shared memory, and how its warpgroups meet: one loads chunks,
// each of the others has a unit of work.
#pragma once

#include "device/mbarrier.cuh"
#include "device/named_barrier.cuh"
#include "device/warpgroup_registers.cuh"
#include "device/warpgroup_shapes.cuh"
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
  static constexpr size_t bytes() { return kBarriersAt + 2 * kStages * sizeof(uint64_t); }

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

  // By all threads of the block before anything else.
  __device__ void start() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) {
        device::init_mbarrier(full(i), kWarpgroup);
        device::init_mbarrier(empty(i), kWarpgroupUnits * kWarpgroup);
      }
    }
    __syncthreads();
  }

  // The loader arrives at full, all units at empty, once in every round through the stages.
  __device__ uint64_t& full(int stage) const { return barriers()[stage]; }
  __device__ uint64_t& empty(int stage) const { return barriers()[kStages + stage]; }

  // Named barrier of a unit's own threads.
  static __device__ int own(int unit) { return 1 + unit; }

 private:
  static constexpr int kStageBytes =
      (kOutput ? 2 : 1) * kStateBytes + kWarpgroupUnits * kPanelBytes;
  static constexpr int kDecaysAt =
      kStages * kStageBytes + (kOutput ? kWarpgroupUnits * kStateBytes : 0);
  static constexpr int kBarriersAt =
      (kDecaysAt + kStages * kWarpgroupUnits * static_cast<int>(sizeof(Decays)) + 7) / 8 * 8;

  __device__ uint64_t* barriers() const {
    return reinterpret_cast<uint64_t*>(memory_ + kBarriersAt);
  }
  __device__ uint32_t address(int at) const { return device::shared_address(memory_) + at; }

  char* memory_;
};

// Where a warpgroup is in its rounds through the stages.
struct StagePlace {
  int stage = 0;
  uint32_t round = 0;

  __device__ void next() {
    stage = stage + 1 < kStages ? stage + 1 : 0;
    if (stage == 0) ++round;
  }
};

}  // namespace hax::ssd
