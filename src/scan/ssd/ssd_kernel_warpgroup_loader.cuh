// The warpgroup that brings chunks into shared memory and makes their decays: a warp for each unit's x and decays, the
// others for B and C.
#pragma once

#include "scan/ssd/ssd_kernel_forward_memory.cuh"
#include "scan/ssd/ssd_kernel_forward_shares.cuh"
#include "scan/ssd/ssd_kernel_warpgroup_memory.cuh"

namespace hax::ssd {

template <class T, int N, Pass kPass>
class ChunkLoader {
 public:
  static constexpr bool kOutput = kPass != Pass::states, kPlain = kPass == Pass::plain_outputs;
  using Memory = WarpgroupMemory<N, kOutput>;

  __device__ ChunkLoader(const ForwardParams& p, const ForwardAccess& access, const Memory& memory)
      : p_(p),
        access_(access),
        memory_(memory),
        warp_(threadIdx.x / device::kWarp % 4),
        lane_(threadIdx.x % device::kWarp) {}

  // A chunk is handed on when the next one is on its way.
  __device__ void run(const UnitBlock& block, const Sequences::Range& range, int64_t begin,
                      int64_t end) {
    enter(block);
    int tokens;
#pragma unroll 1
    for (int64_t t = begin; t < end; t += tokens) {
      tokens = chunk_tokens<kPlain>(p_.checkpoints, t, end);
      if (place_.round > 0) {
        device::wait(memory_.empty(place_.stage), (place_.round - 1) % 2);
      }
      load(range.row, range.begin + t, tokens);
      device::commit_copies();
      const Steps steps = load_steps(range.row, range.begin + t, tokens);
      if (loaded_) hand_on<1>();
      steps_ = steps;
      place_.next();
      loaded_ = true;
    }
  }
  __device__ void finish() {
    if (loaded_) hand_on<0>();
  }

 private:
  // What a warp needs to make a unit's decays of a chunk.
  struct Steps {
    RawSteps raw;
    int stage, tokens;
    float rate, bias;
    bool busy;
  };

  __device__ void enter(const UnitBlock& block) {
    const int64_t index = block.first + min(warp_, block.count - 1);
    group_ = block.group;
    has_unit_ = warp_ < block.count;
    head_ = index / slices(p_.width);
    first_ = static_cast<int>(index % slices(p_.width)) * kSliceRows;
    rate_ = *p_.A.at<float>(head_) * device::kLog2E;
    bias_ = p_.dt_bias ? *p_.dt_bias.at<float>(head_) : 0.0f;
  }

  __device__ void load(int64_t row, int64_t token, int tokens) const {
    const auto load_panel = [&](uint32_t tile, const Tensor& from, int64_t index, int first,
                                int64_t all, bool vectors) {
      load_tile<device::kWarp, 3, T>(lane_, tile, Panel{8}, from.at<T>(row, token, index, first),
                                     from.stride[1], from.stride[3], static_cast<int>(all) - first,
                                     tokens, kPlain || vectors);
    };
    if (warp_ < kWarpgroupUnits) {
      if (!has_unit_) return;
      load_panel(memory_.x(place_.stage, warp_), p_.x, head_, first_, p_.width, access_.x);
      return;
    }
    constexpr int kPanels = N / 64;
#pragma unroll
    for (int i = 0; i < (kOutput ? 2 : 1) * kPanels; ++i) {
      if (warp_ - kWarpgroupUnits != i % (4 - kWarpgroupUnits)) continue;
      const int panel = i % kPanels;
      load_panel((i < kPanels ? memory_.B(place_.stage) : memory_.C(place_.stage)) +
                     panel * Memory::kPanelBytes,
                 i < kPanels ? p_.B : p_.C, group_, panel * 64, p_.states, access_.states);
    }
  }

  __device__ Steps load_steps(int64_t row, int64_t token, int tokens) const {
    Steps steps{{}, place_.stage, tokens, rate_, bias_, has_unit_};
    if (has_unit_) steps.raw.load(p_, row, token, tokens, head_);
    return steps;
  }

  // Hands on the chunk before the Later ones that are on their way.
  template <int Later>
  __device__ void hand_on() const {
    if (steps_.busy) {
      make_decays<kOutput>(memory_.decays(steps_.stage, warp_), p_, steps_.raw, steps_.tokens,
                           steps_.rate, steps_.bias);
    }
    device::wait_for_copies<Later>();
    device::publish_to_products();
    device::arrive(memory_.full(steps_.stage));
  }

  const ForwardParams& p_;
  const ForwardAccess& access_;
  Memory memory_;
  int warp_, lane_;
  Steps steps_{};  // of the chunk that was loaded last
  StagePlace place_;
  bool loaded_ = false;
  // Of the block, then of the warp's unit.
  int64_t group_ = 0, head_ = 0;
  int first_ = 0;
  bool has_unit_ = false;
  float rate_ = 0.0f, bias_ = 0.0f;
};

}  // namespace hax::ssd
