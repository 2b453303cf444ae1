// The sweep ahead of the selective scan's backward: the states where tiles start, and what segments hand to
// their neighbours. A segment's adjoint is the gradient that its own tokens give to the state before it:
// the sum over its tokens of (decay from the segment's start to the token) C_t dy_t.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_fetch.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_scan.cuh"

namespace hax::selective_scan {

// What a lane carries from tile to tile.
struct Sweep {
  float h[8];
  float elapsed[2];            // sum of dt since the walk's start
  float decay[8], adjoint[8];  // since the segment's start
};

template <class S, bool kAdjoint>
__device__ void sweep_tile(Products<S>& products, const TileShared<S>& tile, const LanePlace& place,
                           const float (&rate)[8], Sweep& sweep) {
  constexpr int kTokens = Products<S>::kTokens;
#pragma unroll
  for (int t = 0; t < S::kTile; ++t) {
    if (t % kTokens == 0) {
      products.ready_inputs(t / kTokens);
      if (kAdjoint) products.ready_outputs(t / kTokens);
    }
    const float2 steps = steps_at(tile, place, t);
    const float dt[2] = {steps.x, steps.y};
    float added[8] = {}, given[8] = {};
    products.add_input(added, t);
    if (kAdjoint) products.add_output(given, t);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float decay = S::decay(dt[k / 2 % 2] * rate[k]);
      sweep.h[k] = S::decayed(decay, sweep.h[k], added[k]);
      if (kAdjoint) {
        sweep.decay[k] = S::decayed(decay, sweep.decay[k]);
        sweep.adjoint[k] = fmaf(sweep.decay[k], given[k], sweep.adjoint[k]);
      }
    }
    if (kAdjoint) {  // walks after the first always have adjoints where the time matters
      sweep.elapsed[0] += dt[0];
      sweep.elapsed[1] += dt[1];
    }
  }
}

// With S::kAlone warps go their own ways.
template <class S>
struct SweepShared {
  TileShared<S> tile;
  alignas(16) TileRows<S> rows[S::kAlone ? S::kWarps : 1][S::kVectors ? 2 : 1];
};

template <class S>
class SweepBlock {
 public:
  __device__ SweepBlock(SweepShared<S>& shared, const BackwardParams& p,
                        const CudaBackwardPlan& plan, const Work& work)
      : shared_(shared),
        p_(p),
        plan_(plan),
        block_(shared.tile.work.channels),
        row_(shared.tile.work.row),
        walk_(shared.tile.work.part),
        begin_(shared.tile.work.begin),
        place_(S::state_tiles(plan)) {
    ready_tiles(shared.tile, p, work);
    for (auto& rows : shared.rows) clear_rows<S>(rows);
    __syncthreads();
    load_rates(rate_, p, work.channels, place_);
  }

  __device__ void run() {
    const int64_t last = min((walk_ + 1) * plan_.walk, plan_.segments);
    for (int64_t segment = walk_ * plan_.walk; segment < last; ++segment) {
      const int64_t begin = segment * plan_.segment;
      bool passed = false;
      p_.sequences.for_each_piece(
          row_, begin, min(begin + plan_.segment, p_.length),
          [&](int64_t s, const Sequences::Range& range, int64_t from, int64_t to) {
            if (from == 0) {
              load_states(sweep_.h, p_.initial_state, p_.initial_state.offset(s), block_, place_,
                          p_.states);
            }
            // Only a segment's first piece takes part in what passes through it.
            if (segment > 0 && from > 0 && plan_.decays) {
              pass_through(segment, s, range, from, to);
              passed = true;
            } else {
              tiles<false>(range, from, to);
            }
          });
      if (segment > 0 && plan_.decays && !passed) {
        const float none[8] = {};
        store_passing(segment, none, none);
      }
    }
    if (plan_.walks > 1) {
      store_numbers(plan_.walk_states +
                        numbers_place<S>(plan_, row_ * plan_.walks + walk_, block_.index, place_),
                    sweep_.h);
    }
  }

 private:
  __device__ void pass_through(int64_t segment, int64_t s, const Sequences::Range& range,
                               int64_t from, int64_t to) {
#pragma unroll
    for (int k = 0; k < 8; ++k) sweep_.decay[k] = 1.0f, sweep_.adjoint[k] = 0.0f;
    tiles<true>(range, from, to);
    if (to == range.length) {
      float given[8];
      load_states(given, p_.dfinal_state, p_.dfinal_state.offset(s), block_, place_, p_.states);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        sweep_.adjoint[k] = fmaf(sweep_.decay[k], given[k], sweep_.adjoint[k]);
        sweep_.decay[k] = 0.0f;
      }
    }
    store_passing(segment, sweep_.decay, sweep_.adjoint);
  }
  __device__ void store_passing(int64_t segment, const float (&decay)[8],
                                const float (&adjoint)[8]) const {
    const int64_t at =
        numbers_place<S>(plan_, row_ * plan_.segments + segment, block_.index, place_);
    store_numbers(plan_.decays + at, decay);
    store_numbers(plan_.adjoints + at, adjoint);
  }

  // Tokens [from, to) of a sequence, all of one segment, in tiles from `from` on, cut where the caller has
  // states to go on from.
  template <bool kAdjoint>
  __device__ void tiles(const Sequences::Range& range, int64_t from, int64_t to) {
    constexpr int kNever = 1 << 30;
    const int first = static_cast<int>(range.begin + from - begin_);
    const int count = static_cast<int>(to - from), channels = block_.count;
    const int every =
        p_.checkpoints ? static_cast<int>(min(p_.checkpoints.every, int64_t{kNever})) : kNever;
    int cut = every < kNever ? every - static_cast<int>(from % every) : kNever;
    const auto tile_at = [&](int t) {
      const int end = min(min(count, t - t % S::kTile + S::kTile), cut);
      return Tile{first + t, end - t};
    };
    const int64_t slot = row_ * plan_.slots + (range.begin + from) / S::kTile;
    StartNumber<S>* const states = starts_at<S>(plan_, slot, block_.index, place_);

    Tile tile = tile_at(0);
    int parity = 0;
    S::sync();  // the tile before may still be in use
    fetch(tile, channels, parity, kAdjoint);
    std::conditional_t<S::kPacked, RawElements, int> raw = {};
    if constexpr (S::kPacked) load_packed(raw, shared_.tile, p_, tile, channels, kAdjoint);
#pragma unroll 1
    for (int t = 0; t < count;) {
      device::wait_for_copies<0>();
      S::sync();
      PackedScales scales;
      if constexpr (S::kPacked) {
        stage_packed(scales, shared_.tile, p_, tile, raw, kAdjoint,
                     [](const LanePlace&, const Elements&) {});
      } else {
        stage_elements(shared_.tile, p_, plan_, tile, channels, kAdjoint,
                       [](const ElementPlace<S>&, const Elements&) {});
      }
      const TileRows<S>& rows = rows_of(parity);
      stage_rows<S>(rows_of(parity), shared_.tile, p_, tile, kAdjoint, together(), kTogether);
      const bool starts = t % S::kTile == 0;
      if (starts && (t > 0 || from > 0)) {
        store_start<S>(states + t / S::kTile * plan_.numbers, sweep_.h);
        if (plan_.walks > 1) store_elapsed(slot + t / S::kTile);
      }
      t += tile.tokens;
      const bool at_cut = t == cut;
      if (at_cut) cut += every;
      S::sync();
      if (t < count) {
        tile = tile_at(t);
        parity ^= 1;
        fetch(tile, channels, parity, kAdjoint);
        if constexpr (S::kPacked) load_packed(raw, shared_.tile, p_, tile, channels, kAdjoint);
      }
      if constexpr (S::kPacked) {
        Products<S> products(rows, place_, scales);
        sweep_tile<S, kAdjoint>(products, shared_.tile, place_, rate_, sweep_);
      } else {
        Products<S> products(shared_.tile, rows, place_);
        sweep_tile<S, kAdjoint>(products, shared_.tile, place_, rate_, sweep_);
      }
      if (at_cut) {
        load_states(sweep_.h, p_.checkpoints.states, p_.checkpoints.offset(range, from + t), block_,
                    place_, p_.states);
      }
    }
  }

  // The threads that fetch rows together: the warp's or the block's.
  static constexpr int kTogether = S::kAlone ? device::kWarp : S::kThreads;
  __device__ static int together() { return thread_index() % kTogether; }
  __device__ TileRows<S>& rows_of(int parity) {
    return shared_.rows[S::kAlone ? place_.warp : 0][S::kVectors ? parity : 0];
  }
  __device__ void fetch(const Tile& tile, int channels, int parity, bool gradients) {
    if (!S::kPacked) fetch_elements(shared_.tile, p_, plan_, tile, channels, gradients);
    fetch_rows<S>(rows_of(parity), shared_.tile, p_, plan_, tile, gradients, together(), kTogether);
    device::commit_copies();
  }

  __device__ void store_elapsed(int64_t slot) const {
    if (place_.state_tile > 0 || place_.c > 0) return;
    float* const to =
        plan_.elapsed + (slot * p_.groups * plan_.per_group + block_.index) * plan_.width;
    to[place_.channel] = sweep_.elapsed[0];
    to[place_.channel + 1] = sweep_.elapsed[1];
  }

  SweepShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const ChannelBlock& block_;
  const int64_t &row_, &walk_, &begin_;
  const LanePlace place_;
  float rate_[8];
  Sweep sweep_ = {};
};

// A block for every (row, walk, block of channels), channels fastest.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kWarps == kFewWarps ? 4 : 1)
    backward_states_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ CudaBackwardPlan plan) {
  __shared__ SweepShared<S> shared;
  const int64_t blocks = p.groups * plan.per_group;
  const int64_t walk = blockIdx.x / blocks % plan.walks, row = blockIdx.x / blocks / plan.walks;
  const ChannelBlock block = channel_block(p, plan, blockIdx.x % blocks);
  if (plan.turns && threadIdx.x == 0) {
    if (blockIdx.x == 0) *plan.turns = 0;
    for (int64_t segment = 0; segment < plan.segments; ++segment) {
      plan.handed_over[(row * plan.segments + segment) * blocks + block.index] = 0;
    }
  }
  const Work work = {block, row, walk, walk * plan.walk * plan.segment};
  SweepBlock<S>(shared, p, plan, work).run();
}

}  // namespace hax::selective_scan
