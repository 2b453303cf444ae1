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
__device__ void sweep_tile(const TileShared<S>& shared, const Products<S>& products,
                           const LanePlace& place, const float (&rate)[8], Sweep& sweep) {
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
      sweep.elapsed[0] += dt[0];
      sweep.elapsed[1] += dt[1];
    }
  }
}

// A block for every (row, walk, block of channels), channels fastest.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kWarps == kFewWarps ? 4 : 1)
    backward_states_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ CudaBackwardPlan plan,
                           const __grid_constant__ BackwardSteps steps) {
  __shared__ TileShared<S> shared;
  const int64_t blocks = p.groups * plan.per_group;
  const int64_t walk = blockIdx.x / blocks % plan.walks, row = blockIdx.x / blocks / plan.walks;
  const ChannelBlock block(p, plan, blockIdx.x % blocks);
  const LanePlace place(plan);
  const ElementPlace<S> elements(plan, block);
  const Products<S> products(place);
  const int64_t walk_begin = walk * plan.walk * plan.segment;
  ready_tiles(shared, p, elements, block, row, walk_begin);
  float rate[8];
  load_rates(rate, p, block, place);
  Sweep sweep = {};

  // `slot`: where the state before the tile goes; -1: nowhere.
  const auto run_tile = [&](const Tile& tile, int64_t slot, bool adjoint) {
    __syncthreads();  // the tile before may still be in use
    if (elements.active) {
      stage_elements(shared, p, steps, elements, block, tile, adjoint, [](int, float, float) {});
    }
    stage_rows(shared, p, steps, plan, tile, adjoint);
    if (slot >= 0) {
      store_numbers(
          plan.states + numbers_place<S>(plan, row * plan.slots + slot, block.index, place),
          sweep.h);
      if (plan.walks > 1 && place.state_tile == 0 && place.c == 0) {
        float* const to =
            plan.elapsed + ((row * plan.slots + slot) * blocks + block.index) * plan.width;
        to[place.channel] = sweep.elapsed[0];
        to[place.channel + 8] = sweep.elapsed[1];
      }
    }
    __syncthreads();
    if (adjoint) {
      sweep_tile<S, true>(shared, products, place, rate, sweep);
    } else {
      sweep_tile<S, false>(shared, products, place, rate, sweep);
    }
  };

  const int64_t last = min((walk + 1) * plan.walk, plan.segments);
  for (int64_t segment = walk * plan.walk; segment < last; ++segment) {
    const int64_t begin = segment * plan.segment, end = min(begin + plan.segment, p.length);
    bool adjoint = false;
    p.sequences.for_each_piece(
        row, begin, end, [&](int64_t s, const Sequences::Range& range, int64_t from, int64_t to) {
          if (from == 0) {
            load_states(sweep.h, p.initial_state, p.initial_state.offset(s), block, place,
                        p.states);
          }
          // Only a segment's first piece takes part in what passes through it.
          adjoint = segment > 0 && from > 0;
          if (adjoint) {
#pragma unroll
            for (int k = 0; k < 8; ++k) sweep.decay[k] = 1.0f, sweep.adjoint[k] = 0.0f;
          }
          for (int64_t t = from; t < to;) {
            const int64_t first = range.begin + t;
            const int64_t tile_end = min(to, t + S::kTile - (t - from) % S::kTile);
            const int64_t stop = p.checkpoints.next_stop(t, tile_end);
            const bool starts = (t - from) % S::kTile == 0 && t > 0;
            run_tile({static_cast<int>(first - walk_begin), static_cast<int>(stop - t)},
                     starts ? first / S::kTile : int64_t{-1}, adjoint);
            t = stop;
            if (p.checkpoints && t % p.checkpoints.every == 0) {
              load_states(sweep.h, p.checkpoints.states, p.checkpoints.offset(range, t), block,
                          place, p.states);
            }
          }
          if (!adjoint) return;
          const int64_t at =
              numbers_place<S>(plan, row * plan.segments + segment, block.index, place);
          if (to == range.length) {
            float given[8];
            load_states(given, p.dfinal_state, p.dfinal_state.offset(s), block, place, p.states);
#pragma unroll
            for (int k = 0; k < 8; ++k) {
              sweep.adjoint[k] = fmaf(sweep.decay[k], given[k], sweep.adjoint[k]);
              sweep.decay[k] = 0.0f;
            }
          }
          store_numbers(plan.adjoints + at, sweep.adjoint);
          store_numbers(plan.decays + at, sweep.decay);
        });
    if (segment > 0 && p.sequences.range(p.sequences.sequence_of(row, begin)).begin == begin) {
      const float none[8] = {};
      const int64_t at = numbers_place<S>(plan, row * plan.segments + segment, block.index, place);
      store_numbers(plan.adjoints + at, none);
      store_numbers(plan.decays + at, none);
    }
  }
  if (plan.walks > 1) {
    store_numbers(
        plan.walk_states + numbers_place<S>(plan, row * plan.walks + walk, block.index, place),
        sweep.h);
  }
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
  float carry = 0.0f;
#pragma unroll 4
  for (int64_t segment = plan.segments - 1; segment > 0; --segment) {
    const float own = adjoints[segment * plan.numbers];
    adjoints[segment * plan.numbers] = carry;
    carry = pass(carry, decays[segment * plan.numbers], own);
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
