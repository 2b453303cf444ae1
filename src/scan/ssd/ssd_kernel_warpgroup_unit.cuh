// A unit of work of ssd's forward in a warpgroup of its own. Warp i of it has tokens 16 i .. 16 i + 15 of a chunk's y and
// rows 16 i .. 16 i + 15 of the state. Scores and mix never leave registers.
#pragma once

#include "scan/ssd/ssd_kernel_forward_memory.cuh"
#include "scan/ssd/ssd_kernel_forward_shares.cuh"
#include "scan/ssd/ssd_kernel_forward_state.cuh"
#include "scan/ssd/ssd_kernel_mix.cuh"
#include "scan/ssd/ssd_kernel_output_tokens.cuh"
#include "scan/ssd/ssd_kernel_warpgroup_memory.cuh"

namespace hax::ssd {

template <class T, int N, Pass kPass>
class WarpgroupUnit : public UnitState<N> {
 public:
  static constexpr bool kOutput = kPass != Pass::states, kPlain = kPass == Pass::plain_outputs;
  using Memory = WarpgroupMemory<N, kOutput>;
  using UnitState<N>::h;
  using UnitState<N>::head;
  using UnitState<N>::row;
  using UnitState<N>::busy;

  __device__ WarpgroupUnit(const ForwardParams& p, const ForwardAccess& access, bool split,
                           const Memory& memory)
      : p_(p),
        access_(access),
        split_(split),
        memory_(memory),
        lane_(threadIdx.x % device::kWarp),
        warp_(__shfl_sync(0xffffffffu, threadIdx.x / device::kWarp % 4, 0)),
        unit_(__shfl_sync(0xffffffffu, threadIdx.x / kWarpgroup, 0)) {}

  __device__ void enter(const UnitBlock& block) {
    const int64_t index = block.first + min(unit_, block.count - 1);
    head = static_cast<int>(index / slices(p_.width));
    first_ = static_cast<int>(index % slices(p_.width)) * kSliceRows;
    row = first_ + warp_ * kTileRows;
    busy = unit_ < block.count;
    piece_decay = 1.0f;
    skip_ = p_.D && p_.D.ndim == 1 ? *p_.D.at<float>(head) : 0.0f;
  }

  // Tokens [begin, end) of a sequence; h is the state before and after.
  __device__ void run(const Sequences::Range& range, int64_t begin, int64_t end) {
    if (kOutput) share_state();
    const OutputTokens<T, 4, kPlain> away{p_, access_, head, first_};
    if (kOutput) y_ = away.lane_start(p_.y, range.row, warp_ * kBlock);
    int tokens;
#pragma unroll 1
    for (int64_t t = begin; t < end; t += tokens) {
      tokens = chunk_tokens<kPlain>(p_.checkpoints, t, end);
      if (kOutput) meet();  // the state is there
      device::wait(memory_.full(place_.stage), place_.round % 2);
      if (busy) {
        load_inputs();
        decay_state();
        if (kOutput) {
          chunk(range.row, range.begin + t, tokens);
        } else {
          begin_advance();
          finish_advance();
        }
      }
      device::arrive(memory_.empty(place_.stage));
      place_.next();
      const int64_t done = t + tokens;
      if (kPass == Pass::outputs && p_.checkpoints && done % p_.checkpoints.every == 0) {
        this->store_state(p_, p_.checkpoints.states, p_.checkpoints.offset(range, done), 2);
      }
    }
  }

  // All threads of the unit.
  __device__ void meet() const { device::wait_at_barrier(Memory::own(unit_), kWarpgroup); }

  float piece_decay;  // of the state over what run() went through

 private:
  __device__ const Decays& decays() const { return memory_.decays(place_.stage, unit_); }
  __device__ uint32_t x_tile() const { return memory_.x(place_.stage, unit_); }

  __device__ void chunk(int64_t sequence_row, int64_t token, int tokens);

  // The scores as left operand, weighed: mix[t][s] = decay from s to t, times dt_s, times C_t . B_s.
  __device__ void make_mix(uint32_t (&mix)[kBlocks][4], const float (&scores)[8][4]) const;

  // h = decay h + x^T (weight B) over the chunk, the product from begin_advance() to finish_advance(). The decay comes
  // before all products: the compiler would wait for those under way.
  __device__ void decay_state() {
    const float whole = decays().whole;
    piece_decay *= whole;
#pragma unroll
    for (int i = 0; i < N / 8; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) h[i][e] *= whole;
    }
  }
  __device__ void begin_advance();
  __device__ void finish_advance();

  // The warp's rows of x^T as left operands; times the tokens' weights, rounded to T, or what the rounding left.
  __device__ void load_inputs();
  __device__ void weigh(bool rest);

  // h += weighted x^T B; the product is only begun.
  __device__ void begin_add();

  // The state in 16 bits, for all warps' products.
  __device__ void share_state() const;

  const ForwardParams& p_;
  const ForwardAccess& access_;
  bool split_;
  Memory memory_;
  uint32_t x_[kBlocks][4];
  int lane_, warp_, unit_;
  StagePlace place_;
  int first_ = 0;  // the unit's first row of the head
  float skip_ = 0.0f;
  T* y_ = nullptr;  // of the lane's first token of a row's first chunk
};

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::chunk(int64_t sequence_row, int64_t token, int tokens) {
  const uint64_t C = device::swizzled_operand(memory_.C(place_.stage), 16, 1024);
  const auto multiply_by_C = [&](float(&to)[8][4], uint32_t tile) {
    const uint64_t right = device::swizzled_operand(tile, 16, 1024);
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
      const int at = k / 4 * Memory::kPanelBytes + k % 4 * 32;
      device::warpgroup_mma_shared<T>(to, device::operand_at(C, at), device::operand_at(right, at),
                                      k > 0);
    }
    device::end_products();
  };
  float scores[8][4], y[8][4];
  device::begin_products();
  multiply_by_C(scores, memory_.B(place_.stage));
  multiply_by_C(y, memory_.state(unit_));
  begin_advance();
  device::wait_for_products<2>();
  forget_derived(scores);
  uint32_t mix[kBlocks][4];
  make_mix(mix, scores);
  device::wait_for_products<1>();
  forget_derived(y);
  const float from_start[2] = {decays().from_start[warp_ * kBlock + lane_ / 4],
                               decays().from_start[warp_ * kBlock + lane_ / 4 + 8]};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) y[i][e] *= from_start[e / 2];
  }
  const uint64_t x = device::swizzled_operand(x_tile(), Memory::kPanelBytes, 1024);
  device::begin_products();
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    device::warpgroup_mma<T, true>(y, mix[j], device::operand_at(x, j * kBlock * 128));
  }
  device::end_products();
  finish_advance();
  forget_derived(y);
  meet();  // nobody reads x or the state any more
  share_state();
  const int first = warp_ * kBlock;
  const OutputTokens<T, 4, kPlain> away{p_, access_, head, first_};
  away.finish(y, x_tile() + first * 128, y_ + token * p_.y.stride[1], sequence_row, token + first,
              tokens - first);
}

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::make_mix(uint32_t (&mix)[kBlocks][4],
                                                     const float (&scores)[8][4]) const {
  float gap = 0.0f;
#pragma unroll
  for (int j = kBlocks - 1; j >= 0; --j) {
    const auto& block = reinterpret_cast<const float(&)[2][4]>(scores[2 * j]);
    if (j < warp_) {
      weigh_scores<T>(mix[j], block, decays(), warp_, j, gap);
      gap += decays().block[j];
    } else if (j == warp_) {
      weigh_own_scores<T>(mix[j], block, decays(), warp_, skip_);
    } else {
      mix[j][0] = mix[j][1] = mix[j][2] = mix[j][3] = 0;
    }
  }
}

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::begin_advance() {
  weigh(false);
  begin_add();
}

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::load_inputs() {
  const MatrixPlace place(Panel{8}, true);
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    device::load_matrix_x4_transposed(x_[j], x_tile() + j * kBlock * 128 + place.at(warp_));
  }
}

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::weigh(bool rest) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    uint32_t weighted[4];
    weigh_inputs<T>(weighted, x_[j], decays().weight + j * kBlock, rest);
#pragma unroll
    for (int i = 0; i < 4; ++i) x_[j][i] = weighted[i];
  }
}

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::begin_add() {
  const uint64_t B = device::swizzled_operand(memory_.B(place_.stage), Memory::kPanelBytes, 1024);
  device::begin_products();
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    device::warpgroup_mma<T, true>(h, x_[j], device::operand_at(B, j * kBlock * 128));
  }
  device::end_products();
}

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::finish_advance() {
  device::wait_for_products<0>();
  forget_derived(h);
  if (!split_) return;
  load_inputs();
  weigh(true);
  begin_add();
  device::wait_for_products<0>();
  forget_derived(h);
}

template <class T, int N, Pass kPass>
__device__ void WarpgroupUnit<T, N, kPass>::share_state() const {
  constexpr Panel kPanel{8};
  const MatrixPlace place(kPanel, false);
  const uint32_t own = memory_.state(unit_) + warp_ * kTileRows * 128;
#pragma unroll
  for (int k = 0; k < N / 16; ++k) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const from = &h[2 * k + i / 2][i % 2 * 2];
      words[i] = device::pack_pair<T>(from[0], from[1]);
    }
    device::store_matrix_x4(own + k / 4 * Memory::kPanelBytes + place.at(k % 4), words);
  }
  device::publish_to_products();
}

}  // namespace hax::ssd
