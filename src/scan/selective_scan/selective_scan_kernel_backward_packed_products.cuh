// TensorProducts' interface for bf16 activations and warps that share no channels. Products run over all of a tile's
// eight tokens; scales come in registers, as lanes staged them; what A and dt receive is multiplied in pairs of bf16.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_products.cuh"

namespace hax::selective_scan {

// dt u, then g, of channels 2r and 2r + 1; each word has tokens 2c and 2c + 1.
using PackedScales = uint32_t[2][2];

// What a warp keeps of a tile.
struct PackedMemory {
  using Pack = uint4[device::kWarp];
  Pack states[kPackedTile + 1];  // before each token and behind the last
  Pack gradients[kPackedTile];   // of the states behind each token
};

template <class S>
class PackedProducts {
 public:
  using Memory = PackedMemory;

  __device__ PackedProducts(const TileRows<S>& rows, const LanePlace& place,
                            const PackedScales& scales)
      : rows_(rows), place_(place), scales_(scales) {}

  static constexpr int kTokens = kPackedTile;
  // To add dt u B to states, g C to their gradients.
  __device__ void ready_inputs(int) { ready(0); }
  __device__ void ready_outputs(int) { ready(1); }
  __device__ void add_input(float (&x)[8], int t) const { add(0, x, t); }
  __device__ void add_output(float (&x)[8], int t) const { add(1, x, t); }

  __device__ void ready_sums(const float (&rate)[8]) {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const uint2 pairs = *reinterpret_cast<const uint2*>(&rows_[which][0][place_.r][4 * place_.c]);
      inner_[which][0] = __byte_perm(pairs.x, pairs.y, 0x5410);
      inner_[which][1] = __byte_perm(pairs.x, pairs.y, 0x7632);
    }
    pack(rate_, rate);
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
  __device__ void take_rates(Memory& own, const float (&faded)[8], const float (&)[8],
                             const float (&dt)[2], float (&)[8], int t) {
    uint32_t h[4], x[4], part[2];
    device::load_matrix_x4(h, own.states[t] + place_.lane);
    if (t > 0) sum_states(sums_[2], h, 1, t - 1);
    pack(x, faded);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = device::multiply_pairs_bf16(x[i], h[i]);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const uint32_t steps = device::pack_pair<bf16>(dt[m], dt[m]);
      dA_[m] = device::add_product_pairs_bf16(x[m], steps, dA_[m]);
      dA_[2 + m] = device::add_product_pairs_bf16(x[2 + m], steps, dA_[2 + m]);
      part[m] = device::add_product_pairs_bf16(x[2 + m], rate_[2 + m],
                                               device::multiply_pairs_bf16(x[m], rate_[m]));
    }
    device::add_mma_16x8x8_bf16(sums_[1], part, place_.r == t ? 0x3f803f80u : 0u);
  }
  __device__ void store(Memory&, float (&dA)[8]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = device::unpack_pair<bf16>(dA_[i]);
      dA[2 * i] = pair.x;
      dA[2 * i + 1] = pair.y;
    }
  }

  // Over states, of channel 2r + m and token 2c + i: dh B; dh decay h A log2(e); C h.
  __device__ float sum(int which, int m, int i) const { return sums_[which][2 * m + i]; }

 private:
  // Halves are split once: a product has one token's scales, and 0 for all others.
  __device__ void ready(int which) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      halves_[which][0][m] = scales_[which][m] & 0xffffu;
      halves_[which][1][m] = scales_[which][m] & 0xffff0000u;
    }
    const auto word = [&](int token) {
      return *reinterpret_cast<const uint32_t*>(&rows_[which][0][token][2 * place_.r]);
    };
    const uint32_t first = word(2 * place_.c), second = word(2 * place_.c + 1);
    outer_[which][0] = __byte_perm(first, second, 0x5410);
    outer_[which][1] = __byte_perm(first, second, 0x7632);
  }
  __device__ void add(int which, float (&x)[8], int t) const {
    const bool mine = place_.c == t / 2;
    const auto& half = halves_[which][t % 2];
    const uint32_t scales[2] = {mine ? half[0] : 0, mine ? half[1] : 0};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      device::add_mma_16x8x8_bf16(reinterpret_cast<float(&)[4]>(x[4 * j]), scales,
                                  outer_[which][j]);
    }
  }
  __device__ static void pack(uint32_t (&a)[4], const float (&x)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = device::pack_pair<bf16>(x[2 * i], x[2 * i + 1]);
  }
  // Columns are tokens: all but t get a factor of 0.
  __device__ void sum_states(float (&to)[4], const uint32_t (&a)[4], int which, int t) const {
    const bool mine = place_.r == t;
    device::mma_16x8x16<bf16>(to, a, {mine ? inner_[which][0] : 0, mine ? inner_[which][1] : 0});
  }

  const TileRows<S>& rows_;
  const LanePlace& place_;
  const PackedScales& scales_;
  uint32_t halves_[2][2][2], outer_[2][2], inner_[2][2], rate_[4];
  uint32_t dA_[4] = {};
  float sums_[3][4] = {};
};

}  // namespace hax::selective_scan
