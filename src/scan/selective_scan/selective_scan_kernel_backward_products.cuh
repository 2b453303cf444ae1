// The products of a warp's states with B, C and their channels on tensor cores, for 16-bit activations. Scales of
// channels keep 16 bits (two of bf16); what is summed over states or channels is rounded to bf16; sums are fp32.
// PlainProducts has the same interface.
#pragma once

#include "device/mma_blocks.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_tile.cuh"

namespace hax::selective_scan {

// What a warp gives for its 16 channels, over states: dh B; dh decay h A log2(e); C h.
template <class S>
struct WarpSums {
  // Rows are padded for lanes that write four tokens at once.
  float sums[3][S::kTile][kWarpChannels + (S::kAlone && !S::kAccurate ? 4 : 0)];
  float padding[S::kAccurate ? 4 : 16];  // neighbouring warps' sums in other banks
};

// What a warp keeps of a tile, in packs of 16 channels by 16 states.
template <class S>
struct TensorMemory : WarpSums<S> {
  using Pack = uint4[device::kWarp];
  Pack states[S::kTile + 1];  // before each token and behind the last
  Pack gradients[S::kTile];   // of the states behind each token
};

// What a token gives to dA, and to the lane's sums over its states of dh decay h A log2(e).
__device__ inline void add_rates(float (&part)[2], const float (&faded)[8], const float (&h)[8],
                                 const float (&rate)[8], const float (&dt)[2], float (&dA)[8]) {
  part[0] = part[1] = 0.0f;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int m = k / 2 % 2;
    const float product = faded[k] * h[k];
    part[m] = fmaf(product, rate[k], part[m]);
    dA[k] = fmaf(product, dt[m], dA[k]);
  }
}

template <class S>
class TensorProducts {
 public:
  using T = typename S::T;
  using Memory = TensorMemory<S>;

  __device__ TensorProducts(const TileShared<S>& tile, const TileRows<S>& rows,
                            const LanePlace& place)
      : tile_(tile), rows_(rows), place_(place) {}

  static constexpr int kTokens = 4;  // whose scales are operands of one product
  // Of tokens [4 q, 4 q + 4): to add dt u B to states, g C to their gradients.
  __device__ void ready_inputs(int q) { ready(0, q); }
  __device__ void ready_outputs(int q) { ready(1, q); }
  __device__ void add_input(float (&x)[8], int t) const { add(0, x, t); }
  __device__ void add_output(float (&x)[8], int t) const { add(1, x, t); }

  __device__ void ready_sums(const float (&)[8]) {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const auto& row = rows_[which][place_.state_tile][place_.r % S::kTile];
      const uint2 pairs = *reinterpret_cast<const uint2*>(&row[4 * place_.c]);
      const uint32_t first = operand(pairs.x), second = operand(pairs.y);
      inner_[which][0] = __byte_perm(first, second, 0x5410);
      inner_[which][1] = __byte_perm(first, second, 0x7632);
    }
  }
  // Forward: the state before token t. Then that behind the last, which ends the way forward.
  __device__ void keep(Memory& own, const float (&h)[8], int t) const {
    uint32_t a[4];
    pack(a, h);
    device::store_matrix_x4(own.states[t], place_.lane, a);
  }
  __device__ void keep_last(Memory& own, const float (&h)[8]) {
    uint32_t a[4];
    pack(a, h);
    device::store_matrix_x4(own.states[S::kTile], place_.lane, a);
    sum_states(sums_[2], a, 1, S::kTile - 1);
    __syncwarp();
  }
  // Back: the gradient of the state behind token t; then, with that gradient faded, what A and dt receive.
  __device__ void take_gradient(Memory& own, const float (&dh)[8], int t) {
    uint32_t a[4];
    pack(a, dh);
    device::store_matrix_x4(own.gradients[t], place_.lane, a);
    sum_states(sums_[0], a, 0, t);
  }
  __device__ void take_rates(Memory& own, const float (&faded)[8], const float (&rate)[8],
                             const float (&dt)[2], float (&dA)[8], int t) {
    uint32_t a[4];
    device::load_matrix_x4(a, own.states[t] + place_.lane);
    if (t > 0) sum_states(sums_[2], a, 1, t - 1);
    float h[8], part[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = device::unpack_pair<bf16>(a[i]);
      h[2 * i] = pair.x;
      h[2 * i + 1] = pair.y;
    }
    add_rates(part, faded, h, rate, dt, dA);
    const uint32_t parts[2] = {__float_as_uint(part[0]), __float_as_uint(part[1])};
    float all[4] = {};
    device::mma_16x8x4_tf32(all, parts, __float_as_uint(1.0f));
    pick(sums_[1], all, t);
  }
  __device__ void store(Memory& own, const float (&)[8]) const {
    if (2 * place_.c >= S::kTile) return;
#pragma unroll
    for (int which = 0; which < 3; ++which) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<float2*>(&own.sums[which][2 * place_.c + i][2 * place_.r]) =
            make_float2(sums_[which][i], sums_[which][2 + i]);
      }
    }
  }

 private:
  // fp16 takes two of bf16 to be exact, as what is added to a state stays there.
  static constexpr bool kSplit = type_of<T> != Type::bf16;
  // Two neighbours of B or C in bf16.
  __device__ static uint32_t operand(uint32_t pair) {
    if constexpr (type_of<T> == Type::bf16) {
      return pair;
    } else {
      const float2 values = device::unpack_pair<T>(pair);
      return device::pack_pair<bf16>(values.x, values.y);
    }
  }
  __device__ void ready(int which, int q) {
    const int t = kTokens * q + place_.c;
    const uint2 scales =
        *reinterpret_cast<const uint2*>(&tile_.scales[which][S::place_of(t, place_.channel)]);
    scales_[which][0] = scales.x;
    scales_[which][1] = scales.y;
    const uint32_t pair =
        *reinterpret_cast<const uint32_t*>(&rows_[which][place_.state_tile][t][2 * place_.r]);
    const uint32_t high = operand(pair);
    outer_[which][0][0] = __byte_perm(high, high, 0x1010);
    outer_[which][1][0] = __byte_perm(high, high, 0x3232);
    if constexpr (kSplit) {
      const float2 all = device::unpack_pair<T>(pair), part = device::unpack_pair<bf16>(high);
      const uint32_t low = device::pack_pair<bf16>(all.x - part.x, all.y - part.y);
      outer_[which][0][1] = __byte_perm(low, low, 0x1010);
      outer_[which][1][1] = __byte_perm(low, low, 0x3232);
    }
  }
  // Products run over four tokens; all but t have a scale of 0.
  __device__ void add(int which, float (&x)[8], int t) const {
    const bool mine = place_.c == t % kTokens;
    const uint32_t low = mine ? scales_[which][0] : 0, high = mine ? scales_[which][1] : 0;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float(&to)[4] = reinterpret_cast<float(&)[4]>(x[4 * j]);
      if constexpr (kSplit) {
        device::mma_16x8x16<bf16>(to, {low, high, low, high}, outer_[which][j]);
      } else {
        device::add_mma_16x8x8_bf16(to, {low, high}, outer_[which][j][0]);
      }
    }
  }
  __device__ static void pack(uint32_t (&a)[4], const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = device::pack_pair<bf16>(x[2 * i], x[2 * i + 1]);
  }
  // Columns are tokens: the lanes that have column t keep it.
  __device__ void pick(float (&to)[4], const float (&all)[4], int t) const {
    const bool mine = place_.c == t / 2;
    to[t % 2] = mine ? all[t % 2] : to[t % 2];
    to[2 + t % 2] = mine ? all[2 + t % 2] : to[2 + t % 2];
  }
  __device__ void sum_states(float (&to)[4], const uint32_t (&a)[4], int which, int t) const {
    float all[4] = {};
    device::mma_16x8x16<bf16>(all, a, inner_[which]);
    pick(to, all, t);
  }

  const TileShared<S>& tile_;
  const TileRows<S>& rows_;
  const LanePlace& place_;
  uint32_t scales_[2][2], outer_[2][2][kSplit ? 2 : 1], inner_[2][2];
  float sums_[3][4] = {};
};

}  // namespace hax::selective_scan
