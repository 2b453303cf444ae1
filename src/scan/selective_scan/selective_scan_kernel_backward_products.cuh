// The products of a warp's states with B, C and their channels on tensor cores, for 16-bit activations. Scales of
// channels keep 16 bits (two of bf16); what is summed over states or channels is rounded to bf16; sums are fp32.
// PlainProducts has the same interface.
#pragma once

#include "device/mma_blocks.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_tile.cuh"

namespace hax::selective_scan {

inline constexpr int kGroup = 4;  // tokens whose scales are operands of one product

// What the operands of four channels of a token are for sums over channels: dt u, then g, of the first and
// third; the same of the others.
using Weights = uint4;

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

template <class S>
class TensorProducts {
 public:
  using T = typename S::T;
  using Memory = TensorMemory<S>;

  __device__ TensorProducts(const TileShared<S>& tile, const TileRows<S>& rows,
                            const LanePlace& place)
      : tile_(tile), rows_(rows), place_(place) {}

  // Of tokens [4 q, 4 q + 4): to add dt u B to states, g C to their gradients.
  __device__ void ready_inputs(int q) { ready(0, q); }
  __device__ void ready_outputs(int q) { ready(1, q); }
  __device__ void add_input(float (&x)[8], int t) const { add(0, x, t); }
  __device__ void add_output(float (&x)[8], int t) const { add(1, x, t); }

  __device__ void ready_sums() {
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
  // Back: the state before token t again; the gradient of that behind it; the lane's sums over its states of
  // dh decay h A log2(e).
  __device__ void recall(Memory& own, float (&h)[8], int t) {
    uint32_t a[4];
    device::load_matrix_x4(a, own.states[t] + place_.lane);
    if (t > 0) sum_states(sums_[2], a, 1, t - 1);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = device::unpack_pair<bf16>(a[i]);
      h[2 * i] = pair.x;
      h[2 * i + 1] = pair.y;
    }
  }
  __device__ void take_gradient(Memory& own, const float (&dh)[8], int t) {
    uint32_t a[4];
    pack(a, dh);
    device::store_matrix_x4(own.gradients[t], place_.lane, a);
    sum_states(sums_[0], a, 0, t);
  }
  __device__ void take_rates(Memory&, const float (&part)[2], int t) {
    const uint32_t a[2] = {__float_as_uint(part[0]), __float_as_uint(part[1])};
    float all[4] = {};
    device::mma_16x8x4_tf32(all, a, __float_as_uint(1.0f));
    pick(sums_[1], all, t);
  }
  __device__ void store(Memory& own) const {
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
    const int t = kGroup * q + place_.c;
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
    const bool mine = place_.c == t % kGroup;
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

// What a block adds to dB and dC, from its warps' packs: to(which, token, first of four states, sums).
template <class S, class F>
__device__ void sum_channels(const TensorMemory<S> (&warps)[S::kWarps],
                             const Weights (&weights)[S::kPlaces / 4], int state_tiles, F&& to) {
  const int lane = thread_index() % device::kWarp, which = lane / 4;
  const int own = thread_index() / device::kWarp;
  const int items = S::kTile * (S::kAlone ? 1 : state_tiles) / S::kWarps;
#pragma unroll(S::kAlone ? S::kTile / S::kWarps : 1)
  for (int item = 0; item < items; ++item) {
    const int t = (own + item * S::kWarps) % S::kTile;
    const int state_tile = S::kAlone ? 0 : (own + item * S::kWarps) / S::kTile;
    float dB[2][4] = {}, dC[2][4] = {};
#pragma unroll
    for (int i = 0; i < S::kMostChannels / kWarpChannels; ++i) {
      const int warp = S::kAlone ? i : i * state_tiles + state_tile;
      if (warp >= S::kWarps) break;
      const Weights weight = weights[S::place_of(t, kWarpChannels * i) / 4 + lane % 4];
      const uint32_t a[4] = {weight.x, weight.y, weight.z, weight.w};
      uint32_t gradient[4], state[4];
      device::load_matrix_x4_transposed(gradient, warps[warp].gradients[t] + lane);
      device::load_matrix_x4_transposed(state, warps[warp].states[t + 1] + lane);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        device::mma_16x8x16<bf16>(dB[j], a, {gradient[2 * j], gradient[2 * j + 1]});
        device::mma_16x8x16<bf16>(dC[j], a, {state[2 * j], state[2 * j + 1]});
      }
    }
    // Rows 0 to 7 are weighted with dt u, the others with g; all of a kind are the same.
    const float sums[4] = {which ? dC[0][2] : dB[0][0], which ? dC[1][2] : dB[1][0],
                           which ? dC[0][3] : dB[0][1], which ? dC[1][3] : dB[1][1]};
    if (which < 2) to(which, t, state_tile * kWarpStates + lane % 4 * 4, sums);
  }
}

}  // namespace hax::selective_scan
