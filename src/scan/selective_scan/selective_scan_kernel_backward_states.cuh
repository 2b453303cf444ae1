// The sweep ahead of the selective scan's backward: the states where tiles start, and what segments hand to
// their neighbours. A segment's adjoint is the gradient that its own tokens give to the state before it:
// the sum over its tokens of (decay from the segment's start to the token) C_t dy_t.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_products.cuh"

namespace hax::selective_scan {

// What a lane carries from tile to tile.
struct Sweep {
  float h[8];
  float elapsed[2];            // sum of dt since the walk's start
  float decay[8], adjoint[8];  // since the segment's start
};

template <class S, bool kAdjoint>
__device__ void sweep_tile(const TileShared<S>& shared, const LanePlace& place,
                           const float (&rate)[8], Sweep& sweep) {
  const Products<S> products(place, shared);
#pragma unroll 1
  for (int first = 0; first < S::kTile; first += S::kRun) {
    typename Products<S>::Outer B, C;
    products.load_outer(B, &shared.rows[0][place.state_tile][first]);
    if (kAdjoint) products.load_outer(C, &shared.rows[1][place.state_tile][first]);
#pragma unroll
    for (int t = 0; t < S::kRun; ++t) {
      const float4 low = shared.input(first + t, place.channel);
      const float4 high = shared.input(first + t, place.channel + 8);
      const float dt[2] = {low.x, high.x}, dtu[2] = {low.y, high.y}, g[2] = {low.z, high.z};
      float added[8] = {}, given[8] = {};
      products.add_outer(added, dtu, B, t);
      if (kAdjoint) products.add_outer(given, g, C, t);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float decay = S::decay(dt[k % 2] * rate[k]);
        sweep.h[k] = S::decayed(decay, sweep.h[k], added[result_place(k)]);
        if (kAdjoint) {
          sweep.decay[k] = S::decayed(decay, sweep.decay[k]);
          sweep.adjoint[k] = fmaf(sweep.decay[k], given[result_place(k)], sweep.adjoint[k]);
        }
      }
      if (kAdjoint) {  // walks after the first always have adjoints where the time matters
        sweep.elapsed[0] += dt[0];
        sweep.elapsed[1] += dt[1];
      }
    }
  }
}

template <class S>
class SweepBlock {
 public:
  __device__ SweepBlock(TileShared<S>& shared, const BackwardParams& p,
                        const CudaBackwardPlan& plan, const BackwardSteps& steps, const Work& work)
      : shared_(shared),
        p_(p),
        plan_(plan),
        steps_(steps),
        block_(shared.work.channels),
        row_(shared.work.row),
        walk_(shared.work.part),
        begin_(shared.work.begin),
        place_(S::state_tiles(plan)) {
    ready_tiles(shared, p, plan, work);
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
    const int count = static_cast<int>(to - from);
    const int every =
        p_.checkpoints ? static_cast<int>(min(p_.checkpoints.every, int64_t{kNever})) : kNever;
    int cut = every < kNever ? every - static_cast<int>(from % every) : kNever;
    const auto tile_at = [&](int t) {
      const int end = min(min(count, t - t % S::kTile + S::kTile), cut);
      return Tile{first + t, end - t};
    };
    const int64_t slot = row_ * plan_.slots + (range.begin + from) / S::kTile;
    float* const states = plan_.states + numbers_place<S>(plan_, slot, block_.index, place_);

    Tile tile = tile_at(0);
    fetch_tile(shared_, p_, steps_, plan_, block_, tile, kAdjoint);
    device::commit_copies();
#pragma unroll 1
    for (int t = 0; t < count;) {
      device::wait_for_copies<0>();
      __syncthreads();  // the tile before may still be in use
      stage_elements(shared_, p_, plan_, block_, tile, kAdjoint, [](int, int, float, float) {});
      stage_rows(shared_, p_, steps_, plan_, tile, kAdjoint);
      const bool starts = t % S::kTile == 0;
      if (starts && (t > 0 || from > 0)) {
        store_numbers(states + t / S::kTile * plan_.numbers, sweep_.h);
        if (plan_.walks > 1) store_elapsed(slot + t / S::kTile);
      }
      t += tile.tokens;
      const bool at_cut = t == cut;
      if (at_cut) cut += every;
      if (t < count) {
        tile = tile_at(t);
        fetch_tile(shared_, p_, steps_, plan_, block_, tile, kAdjoint);
      }
      device::commit_copies();
      __syncthreads();
      sweep_tile<S, kAdjoint>(shared_, place_, rate_, sweep_);
      if (at_cut) {
        load_states(sweep_.h, p_.checkpoints.states, p_.checkpoints.offset(range, from + t), block_,
                    place_, p_.states);
      }
    }
  }

  __device__ void store_elapsed(int64_t slot) const {
    if (place_.state_tile > 0 || place_.c > 0) return;
    float* const to =
        plan_.elapsed + (slot * p_.groups * plan_.per_group + block_.index) * plan_.width;
    to[place_.channel] = sweep_.elapsed[0];
    to[place_.channel + 8] = sweep_.elapsed[1];
  }

  TileShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardSteps& steps_;
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
                           const __grid_constant__ CudaBackwardPlan plan,
                           const __grid_constant__ BackwardSteps steps) {
  __shared__ TileShared<S> shared;
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
  SweepBlock<S>(shared, p, plan, steps, work).run();
}

// What comes into every segment and walk, from what they give. A thread for every number of a row.
inline constexpr int kCarryThreads = 256;

__global__ void __launch_bounds__(kCarryThreads)
    backward_carry_kernel(int64_t rows, const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kCarryThreads + threadIdx.x;
  if (index >= rows * plan.numbers) return;
  const int64_t row = index / plan.numbers, number = index % plan.numbers;
  float* const adjoints = plan.adjoints + row * plan.segments * plan.numbers + number;
  const float* const decays = plan.decays + row * plan.segments * plan.numbers + number;
  // Where nothing passes through, neither does a NaN.
  const auto pass = [](float carry, float decay, float own) {
    return decay != 0.0f ? fmaf(decay, carry, own) : own;
  };
  constexpr int kTogether = 8;  // segments whose numbers are read at a time
  float carry = 0.0f;
  for (int64_t last = plan.segments - 1; last > 0; last -= kTogether) {
    float own[kTogether], decay[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (last - i > 0) {
        own[i] = adjoints[(last - i) * plan.numbers];
        decay[i] = decays[(last - i) * plan.numbers];
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (last - i > 0) {
        adjoints[(last - i) * plan.numbers] = carry;
        carry = pass(carry, decay[i], own[i]);
      }
    }
  }
  adjoints[0] = carry;
  if (plan.walks == 1) return;
  float* const states = plan.walk_states + row * plan.walks * plan.numbers + number;
  carry = 0.0f;
  for (int64_t walk = 0; walk < plan.walks; ++walk) {
    float decay = walk > 0 ? 1.0f : 0.0f;
    const int64_t last = min((walk + 1) * plan.walk, plan.segments);
    for (int64_t segment = larger(1, walk * plan.walk); segment < last; ++segment) {
      decay *= decays[segment * plan.numbers];
    }
    const float own = states[walk * plan.numbers];
    states[walk * plan.numbers] = carry;
    carry = pass(carry, decay, own);
  }
}

}  // namespace hax::selective_scan
