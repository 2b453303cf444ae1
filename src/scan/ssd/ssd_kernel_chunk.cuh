// Chunks of tokens in shared memory, for the forward of 16-bit activations: tiles, their loads, decays.
#pragma once

#include "device/async_copy.cuh"
#include "device/element.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/warp.cuh"
#include "scan/ssd/ssd.hpp"

namespace hax::ssd {

inline constexpr int kBlock = 16;  // tokens of a sub-block of a chunk
inline constexpr int kBlocks = kChunk / kBlock;

// A tile holds kChunk rows (tokens) of 16-bit elements in panels of up to 64 columns; of 8 rows that lie in the same
// banks each keeps its groups of 16 bytes in another order, so that no two threads of an access meet in a bank. A row of
// 2, 4 or 8 groups: the layouts that the hardware calls 32-, 64- and 128-byte swizzles.
struct Panel {
  int groups;  // 16-byte groups of a row

  __device__ constexpr int swizzle(int row) const {
    return groups == 8 ? row & 7 : groups == 4 ? row >> 1 & 3 : row >> 2 & 1;
  }
  // Bytes from the panel's start to a group of a row.
  __device__ constexpr int at(int row, int group) const {
    return (row * groups + (group ^ swizzle(row))) * 16;
  }
  __device__ constexpr int bytes() const { return kChunk * groups * 16; }
};

// Copies `columns` of the tokens' rows into panels of 2^Shift groups in all; zeros beyond the tokens and columns. `worker`
// is one of Workers threads.
template <int Workers, int Shift, class T>
__device__ void load_tile(int worker, uint32_t tile, Panel panel, const T* from, int64_t stride,
                          int64_t column_stride, int columns, int tokens, bool vectors) {
  constexpr int kStep = Workers >> Shift;             // rows
  constexpr int kPeriod = kStep < 8 ? 8 / kStep : 1;  // of the swizzle, in steps
  static_assert(kChunk % kStep == 0 && (kStep * kPeriod) % 8 == 0);
  const int group = worker & ((1 << Shift) - 1), row = worker >> Shift;
  const int own = group & (panel.groups - 1), valid = columns - group * 8;
  const T* source = from + row * stride + group * 8 * column_stride;
  uint32_t to[kPeriod];  // less the rows between
#pragma unroll
  for (int i = 0; i < kPeriod; ++i) {
    to[i] = tile + (group - own) * kChunk * 16 + panel.at(row + i * kStep, own) -
            i * kStep * panel.groups * 16;
  }
  const int left = (valid > 0 ? tokens : 0) - row;  // tokens from the first row on
  if (vectors) {
#pragma unroll
    for (int i = 0; i < kChunk / kStep; ++i, source += kStep * stride) {
      device::copy_async_16(to[i % kPeriod] + i * kStep * panel.groups * 16, source,
                            left > i * kStep);
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kChunk / kStep; ++i, source += kStep * stride) {
    const uint32_t place = tile + (group - own) * kChunk * 16 + panel.at(row + i * kStep, own);
    T* const elements = static_cast<T*>(device::shared_pointer(place));
#pragma unroll 1
    for (int e = 0; e < 8; ++e) {
      elements[e] = left > i * kStep && e < valid ? source[e * column_stride] : T{};
    }
  }
}

// How a unit's state decays over a chunk. Exponents are base 2 and sums of dt A <= 0 of one direction, so they neither
// cancel nor overflow, but for pairs inside a sub-block of 16 tokens.
struct alignas(16) Decays {
  float dt[kChunk];
  float within[kChunk];      // exponent from the sub-block's start up to and with t
  float to_end[kChunk];      // dt_t times the decay from behind t to the sub-block's end
  float from_start[kChunk];  // decay from the chunk's start up to and with t
  float weight[kChunk];      // dt_t times the decay from behind t to the chunk's end
  float block[kBlocks];      // exponent of a sub-block
  float whole;               // decay over the chunk
};

// A decay of 2^-200 is 0 in fp32; beyond that, sums need not grow.
inline constexpr float kLeastExponent = -200.0f;

// dt of a warp's lanes, two tokens each, as the bits that are stored: nothing waits for them before they are needed.
struct RawSteps {
  uint32_t bits[2];

  __device__ void load(const Inputs& in, int64_t row, int64_t token, int tokens, int64_t head) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = threadIdx.x % device::kWarp * 2 + i;
      bits[i] = 0;
      if (t >= tokens) continue;
      const int64_t at = in.dt.offset(row, token + t, head);
      bits[i] = in.dt.type == Type::fp32 ? static_cast<const uint32_t*>(in.dt.data)[at]
                                         : static_cast<const uint16_t*>(in.dt.data)[at];
    }
  }
  __device__ float value(const Inputs& in, int i) const {
    const auto half = static_cast<uint16_t>(bits[i]);
    return in.dt.type == Type::fp32   ? __uint_as_float(bits[i])
           : in.dt.type == Type::bf16 ? device::to_float(bf16{half})
                                      : device::to_float(fp16{half});
  }
};

// dt of a token from what is stored and its bias.
__device__ inline float step_size(const Inputs& in, float raw) {
  const float value = device::softplus(raw);
  return value < in.dt_min ? in.dt_min : value > in.dt_max ? in.dt_max : value;
}

// The exponent by which a state decays over a token.
__device__ inline float step_exponent(float dt, float rate_log2) {
  const float exponent = dt * rate_log2;
  return exponent < kLeastExponent ? kLeastExponent : exponent;
}

// One warp makes a unit's decays; without kOutputs those that the state needs alone.
template <bool kOutputs>
__device__ void make_decays(Decays& to, const Inputs& in, const RawSteps& raw, int tokens,
                            float rate_log2, float bias) {
  constexpr unsigned kAll = 0xffffffffu;
  constexpr int kLanes = kBlock / 2;  // of a sub-block
  const int lane = threadIdx.x % device::kWarp;
  float dt[2], step[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    dt[i] = 2 * lane + i < tokens ? step_size(in, raw.value(in, i) + bias) : 0.0f;
    step[i] = step_exponent(dt[i], rate_log2);
  }
  float before = step[0] + step[1], behind = before;
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const float lower = __shfl_up_sync(kAll, before, distance, kLanes);
    const float upper = __shfl_down_sync(kAll, behind, distance, kLanes);
    if (lane % kLanes >= distance) before += lower;
    if (lane % kLanes + distance < kLanes) behind += upper;
  }
  float earlier = __shfl_up_sync(kAll, before, 1, kLanes);
  float later = __shfl_down_sync(kAll, behind, 1, kLanes);
  if (lane % kLanes == 0) earlier = 0.0f;
  if (lane % kLanes == kLanes - 1) later = 0.0f;
  float start = 0.0f, end = 0.0f, whole = 0.0f;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    const float block = __shfl_sync(kAll, before, b * kLanes + kLanes - 1);
    if (kOutputs && lane == 0) to.block[b] = block;
    if (b < lane / kLanes) start += block;
    if (b > lane / kLanes) end += block;
    whole += block;
  }
  const float within[2] = {earlier + step[0], earlier + step[0] + step[1]};
  const float left[2] = {later + step[1], later};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = 2 * lane + i;
    if (kOutputs) {
      to.dt[t] = dt[i];
      to.within[t] = within[i];
      to.to_end[t] = dt[i] * device::exp2_approx(left[i]);
      to.from_start[t] = device::exp2_approx(start + within[i]);
    }
    to.weight[t] = dt[i] * device::exp2_approx(left[i] + end);
  }
  if (lane == 0) to.whole = device::exp2_approx(whole);
}

// Where a lane points ldmatrix in a panel, for 16 rows and a pair of groups (a multiple of 16 first row, an even first
// group): as fragments of a right operand whose columns are the rows here need them (groups of rows 0-7 first), or
// others (rows 0-15 of a group first).
struct MatrixPlace {
  uint32_t row;    // bytes from the panel's start to the lane's row
  uint32_t group;  // and from there to its group

  __device__ MatrixPlace(Panel panel, bool groups_first) {
    const int lane = threadIdx.x % device::kWarp, eighth = lane / 8;
    const int own_row = lane % 8 + (groups_first ? eighth / 2 : eighth % 2) * 8;
    row = own_row * panel.groups * 16;
    group = ((groups_first ? eighth % 2 : eighth / 2) ^ panel.swizzle(own_row)) * 16;
  }
  // For the pair of groups 2 k and 2 k + 1 of the panel.
  __device__ uint32_t at(int k) const { return row + (group ^ (k * 32)); }
};

}  // namespace hax::ssd
