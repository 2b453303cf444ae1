// What a thread block that takes a span of chunks at once keeps in shared memory.
#pragma once

#include "scan/ssd/ssd_kernel_chunk.cuh"

namespace hax::ssd {

// Laid out as span_bytes() has it. Rows of fp32 states lie so far apart that a product's pairs of them meet in no bank.
// Pairs of 8 rows of a unit.
template <int Pairs>
class SpanMemory {
 public:
  static constexpr int kRows = 16 * Pairs;
  static constexpr int kStatesBytes = kChunk * kLeastStates * 2;  // B or C of a chunk
  static constexpr int kInputBytes = kChunk * kRows * 2;          // x of a unit
  static constexpr int kStateFloats = kRows * kStateStride;

  __device__ SpanMemory(char* memory, const CudaForwardPlan& plan)
      : memory_(memory), units_(plan.units), pairs_(plan.chunks * plan.units) {
    inputs_ = 2 * kStatesBytes * plan.chunks;
    floats_ = inputs_ + pairs_ * kInputBytes;
    decays_ = floats_ + (pairs_ + units_) * kStateFloats * 4;
  }
  static_assert(sizeof(Decays) == kDecaysBytes);

  // Shared addresses.
  __device__ uint32_t B(int chunk) const { return address(chunk * 2 * kStatesBytes); }
  __device__ uint32_t C(int chunk) const { return B(chunk) + kStatesBytes; }
  __device__ uint32_t x(int chunk, int unit) const {
    return address(inputs_ + (chunk * units_ + unit) * kInputBytes);
  }
  // What a chunk adds to a unit's state, later the state before the chunk.
  __device__ float* state(int chunk, int unit) const {
    return reinterpret_cast<float*>(memory_ + floats_) + (chunk * units_ + unit) * kStateFloats;
  }
  // A unit's state between spans.
  __device__ float* carry(int unit) const {
    return reinterpret_cast<float*>(memory_ + floats_) + (pairs_ + unit) * kStateFloats;
  }
  __device__ Decays& decays(int chunk, int unit) const {
    return reinterpret_cast<Decays*>(memory_ + decays_)[chunk * units_ + unit];
  }
  // By how much a unit's state decays over a piece.
  __device__ float& piece_decay(int unit) const {
    return reinterpret_cast<float*>(memory_ + decays_ + pairs_ * kDecaysBytes)[unit];
  }

 private:
  __device__ uint32_t address(int at) const { return device::shared_address(memory_) + at; }

  char* memory_;
  int units_, pairs_;  // pairs of a chunk and a unit
  int inputs_, floats_, decays_;
};

}  // namespace hax::ssd
