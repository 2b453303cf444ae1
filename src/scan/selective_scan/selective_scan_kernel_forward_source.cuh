// Where a ring's warp gets its chunks' inputs from. For every chunk a source is asked, in this order, to open()
// it, for what its steps() take, when the warp's lanes have met to go ahead() with later chunks, for what its
// outputs() take, and when they have met again to close() it.
#pragma once

#include "device/async_copy.cuh"
#include "scan/selective_scan/selective_scan_kernel_forward_warp.cuh"

namespace hax::selective_scan {

// Fetches into registers, one chunk ahead, whatever the tensors' layout.
template <class S>
class RegisterSource {
 public:
  struct Shared {};

  __device__ RegisterSource(const WarpScan<S>& w, Shared&, int64_t token, int turn, int ring)
      : w_(w), in_(w, token), ring_(ring) {
    in_.fetch(fetched_, w.chunk_tokens(turn), w.lane.part);
  }
  __device__ void open(float* states) const { in_.states.store(states, fetched_.states); }
  __device__ void steps(Elements<S>& u, Elements<S>& delta) const {
    u = fetched_.u;
    delta = fetched_.delta;
  }
  __device__ void ahead(int chunk) {
    u_ = fetched_.u;
    z_ = fetched_.z;
    in_.fetch(fetched_, w_.chunk_tokens(chunk + ring_), w_.lane.part);
  }
  __device__ void outputs(Elements<S>& u, Elements<S>& z) const {
    u = u_;
    z = z_;
  }
  __device__ void close() {}

 private:
  const WarpScan<S>& w_;
  Inflow<S> in_;
  Fetched<S> fetched_;
  Elements<S> u_, z_;
  const int ring_;
};

// Copies into shared memory several chunks ahead; needs pairs of channels and rows of B and C in vectors.
template <class S>
class AsyncSource {
 public:
  using T = typename S::T;
  static constexpr int kSlots = S::kTokens <= 8 ? 4 : 2;
  static constexpr int kPairs = S::kRows / 2;
  static_assert(S::kChannels == 1 && kPairs * S::kTokens == device::kWarp);

  struct alignas(16) Slot {
    T states[2 * S::kTokens * S::kAllStates];
    T u[S::kTokens][S::kRows], delta[S::kTokens][S::kRows], z[S::kTokens][S::kRows];
  };
  using Shared = Slot[kSlots];

  __device__ AsyncSource(const WarpScan<S>& w, Shared& slots, int64_t token, int turn, int ring)
      : w_(w),
        slots_(slots),
        states_(w.p, w.layout.B, w.layout.C, w.range.row, token, w.block.group, w.thread),
        ring_(ring) {
    // A lane copies two channels of one of the chunk's tokens.
    token_ = w.thread / kPairs;
    pair_ = w.thread % kPairs * 2;
    const int in_block = w.lane.channel - w.row + pair_;
    const int64_t channel = w.block.first + (in_block < w.block.count ? in_block : 0);
    const auto start = [&](const Tensor& tensor) {
      return reinterpret_cast<const char*>(tensor.at<T>(w.range.row, token + token_, channel));
    };
    u_ = start(w.p.u);
    delta_ = start(w.p.delta);
    z_ = start(w.p.z ? w.p.z : w.p.u);
#pragma unroll
    for (int i = 0; i + 1 < kSlots; ++i) fetch(slots_[i], turn + i * ring);
  }

  __device__ void open() {
    device::wait_for_copies<kSlots - 2>();
    __syncwarp();
  }
  __device__ void open(float* states) {
    device::wait_for_copies<kSlots - 2>();
    // What the lane has copied itself.
    typename ChunkStates<S>::Rows rows;
#pragma unroll
    for (int j = 0; j < ChunkStates<S>::kFetches; ++j) {
      rows[j].load_shared(slots_[slot_].states + states_.place(j) * ChunkStates<S>::kVector);
    }
    states_.store(states, rows);
    __syncwarp();
  }
  // B of a token's states 2 pair and 2 pair + 1, C of its states 4 quad to 4 quad + 3.
  __device__ uint32_t input_states(int token, int pair) const {
    return *reinterpret_cast<const uint32_t*>(
        &slots_[slot_].states[token * S::kAllStates + pair * 2]);
  }
  __device__ uint2 sum_states(int token, int quad) const {
    return *reinterpret_cast<const uint2*>(
        &slots_[slot_].states[(S::kTokens + token) * S::kAllStates + quad * 4]);
  }
  __device__ void steps(Elements<S>& u, Elements<S>& delta) const {
    read(u, slots_[slot_].u);
    read(delta, slots_[slot_].delta);
  }
  __device__ void ahead(int chunk) {
    fetch(slots_[(slot_ + kSlots - 1) % kSlots], chunk + (kSlots - 1) * ring_);
  }
  __device__ void outputs(Elements<S>& u, Elements<S>& z) const {
    read(u, slots_[slot_].u);
    read(z, slots_[slot_].z);
  }
  __device__ void close() { slot_ = (slot_ + 1) % kSlots; }

 private:
  __device__ void fetch(Slot& to, int chunk) {
    const int tokens = w_.chunk_tokens(chunk);
    constexpr int kBytes = 2 * static_cast<int>(sizeof(T));
    const bool used = token_ < tokens;
    device::copy_async_or_clear<kBytes>(&to.u[token_][pair_], u_, used);
    device::copy_async_or_clear<kBytes>(&to.delta[token_][pair_], delta_, used);
    device::copy_async_or_clear<kBytes>(&to.z[token_][pair_], z_, used);
    u_ += w_.layout.u.chunks;
    delta_ += w_.layout.delta.chunks;
    z_ += w_.layout.z.chunks;
    states_.copy(to.states, tokens);
    states_.advance();
    device::commit_copies();
  }

  __device__ void read(Elements<S>& to, const T (&from)[S::kTokens][S::kRows]) const {
#pragma unroll
    for (int i = 0; i < S::kOwn; ++i) {
      to.at[i].clear();
      to.at[i].set(0, from[w_.lane.part + i * S::kLanes][w_.row]);
    }
  }

  const WarpScan<S>& w_;
  Shared& slots_;
  ChunkStates<S> states_;
  const int ring_;
  int slot_ = 0;
  int token_, pair_;
  const char *u_, *delta_, *z_;
};

}  // namespace hax::selective_scan
