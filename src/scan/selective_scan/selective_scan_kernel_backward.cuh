// Backward of the selective scan. A block goes through a segment's tiles from the last to the first, through
// a tile run by run. A run's states are computed again from the one it starts with and kept for the way
// back: the decays in registers, the states in shared memory.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_products.cuh"

namespace hax::selective_scan {

// A warp's memory: the states before each token of a run and before the tile, and what the tile gives. Where
// a tile is one run, that takes the states' place when they are done with.
template <class S>
class WarpShared {
 public:
  using Sums = SumsOfToken (*)[S::kTile];

  __device__ void keep(int t, int lane, const float (&h)[8]) {
    states_[t][0][lane] = make_float4(h[0], h[1], h[2], h[3]);
    states_[t][1][lane] = make_float4(h[4], h[5], h[6], h[7]);
  }
  __device__ void recall(float (&h)[8], int t, int lane) const {
    const float4 low = states_[t][0][lane], high = states_[t][1][lane];
    h[0] = low.x, h[1] = low.y, h[2] = low.z, h[3] = low.w;
    h[4] = high.x, h[5] = high.y, h[6] = high.z, h[7] = high.w;
  }
  // Over n: dh B; dh decay h A log2(e); C h. `warp` staggers the warps' banks.
  __device__ Sums sums(int warp) { return reinterpret_cast<Sums>(results() + warp % 2 * 16); }
  // Over the warp's channels: dB, dC.
  __device__ Sums shares() { return reinterpret_cast<Sums>(results() + kShares); }

 private:
  static constexpr int kStates = S::kRun + (S::kRuns > 1 ? 1 : 0);
  static constexpr int kOfToken = sizeof(SumsOfToken) / sizeof(float);
  static constexpr int kShares = 3 * S::kTile * kOfToken + 16;
  static constexpr int kResults = kShares + 2 * S::kTile * kOfToken;  // floats
  static_assert(S::kRuns > 1 || kResults <= S::kRun * kWarpNumbers);

  __device__ float* results() {
    return S::kRuns > 1 ? results_ : reinterpret_cast<float*>(states_);
  }
  float4 states_[kStates][2][device::kWarp];
  alignas(16) float results_[S::kRuns > 1 ? kResults : 4];
};

template <class S>
struct BackwardShared {
  static constexpr int kStagers = TileShared<S>::kStagers;
  TileShared<S> tile;
  float* shares[S::kThreads];  // where a thread's part of the segment's dB and dC goes
  WarpShared<S> warps[S::kWarps];
  // Of each staging thread: slopes of a tile's elements, sums over its tiles.
  float2 slopes[S::kElements][kStagers];  // of dz by y, of delta by dt
  float4 skip_sums[kStagers], bias_sums[kStagers];
};

// The states of a run's tokens, from the one before it.
template <class S>
__device__ void advance(const TileShared<S>& tile, const Products<S>& products,
                        const LanePlace& place, const float (&rate)[8], int first, float (&h)[8]) {
  typename Products<S>::Outer B;
  products.load_outer(B, &tile.rows[0][place.state_tile][first]);
#pragma unroll
  for (int t = 0; t < S::kRun; ++t) {
    const float4 low = tile.input(first + t, place.channel);
    const float4 high = tile.input(first + t, place.channel + 8);
    const float dt[2] = {low.x, high.x}, dtu[2] = {low.y, high.y};
    float added[8] = {};
    products.add_outer(added, dtu, B, t);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      h[k] = S::decayed(S::decay(dt[k % 2] * rate[k]), h[k], added[result_place(k)]);
    }
  }
}

// From a run's start to its end and back. h: the state before it. dh: gradient of the state behind it, then
// before it, in the order of results.
template <class S>
__device__ void run_back(BackwardShared<S>& shared, const Products<S>& products,
                         const LanePlace& place, const float (&rate)[8], int first, float (&h)[8],
                         float (&dh)[8], float (&dA)[8]) {
  using P = Products<S>;
  const TileShared<S>& tile = shared.tile;
  WarpShared<S>& own = shared.warps[place.warp];
  typename P::Outer B, C;
  typename P::Inner inner_B, inner_C;
  products.load_outer(B, &tile.rows[0][place.state_tile][first]);
  float decays[S::kRun][8];
#pragma unroll
  for (int t = 0; t < S::kRun; ++t) {
    const float4 low = tile.input(first + t, place.channel);
    const float4 high = tile.input(first + t, place.channel + 8);
    const float dt[2] = {low.x, high.x}, dtu[2] = {low.y, high.y};
    own.keep(t, place.lane, h);
    float added[8] = {};
    products.add_outer(added, dtu, B, t);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      decays[t][k] = S::decay(dt[k % 2] * rate[k]);
      h[k] = S::decayed(decays[t][k], h[k], added[result_place(k)]);
    }
  }
  products.load_outer(C, &tile.rows[1][place.state_tile][first]);
  products.load_inner(inner_B, &tile.rows[0][place.state_tile][first]);
  products.load_inner(inner_C, &tile.rows[1][place.state_tile][first]);
  typename P::RowSums from_B = {};
  typename P::ColumnSums from_A = {}, from_C = {};
  typename P::StateSums dB = {}, dC = {};
#pragma unroll
  for (int t = S::kRun - 1; t >= 0; --t) {
    const float4 low = tile.input(first + t, place.channel);
    const float4 high = tile.input(first + t, place.channel + 8);
    const float dt[2] = {low.x, high.x}, dtu[2] = {low.y, high.y}, g[2] = {low.z, high.z};
    products.add_outer(dh, g, C, t);
    products.sum_result_states(from_B, dh, inner_B, t);
    products.sum_states(from_C, h, inner_C, t);
    float before[8], part[2] = {}, of_B[4] = {}, of_C[4] = {};
    own.recall(before, t, place.lane);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int m = k % 2, n = k / 2 % 2 * 2 + k / 4;
      float& gradient = dh[result_place(k)];
      of_B[n] = fmaf(dtu[m], gradient, of_B[n]);
      of_C[n] = fmaf(g[m], h[k], of_C[n]);
      gradient = S::decayed(decays[t][k], gradient);
      const float faded = gradient * before[k];
      part[m] = fmaf(faded, rate[k], part[m]);
      dA[k] = fmaf(faded, dt[m], dA[k]);
      h[k] = before[k];
    }
    products.sum_lanes(from_A, part, t);
    products.sum_channels(dB, of_B, t);
    products.sum_channels(dC, of_C, t);
  }
  if (S::kRuns == 1) __syncwarp();  // results take the states' place
  const auto sums = own.sums(place.warp);
  products.store_sums(&sums[0][first], from_B);
  products.store_columns(&sums[1][first], from_A);
  products.store_columns(&sums[2][first], from_C);
  const auto shares = own.shares();
  products.store_shares(&shares[0][first], dB);
  products.store_shares(&shares[1][first], dC);
}

template <class S>
__device__ void scan_tile_back(BackwardShared<S>& shared, const Products<S>& products,
                               const LanePlace& place, const float (&rate)[8], float (&h)[8],
                               float (&dh)[8], float (&dA)[8]) {
  static_assert(S::kRuns <= 2);
  WarpShared<S>& own = shared.warps[place.warp];
#pragma unroll 1
  for (int first = S::kTile - S::kRun; first >= 0; first -= S::kRun) {
    if (S::kRuns > 1) {
      if (first > 0) {
        own.keep(S::kRun, place.lane, h);
        advance<S>(shared.tile, products, place, rate, 0, h);
      } else {
        own.recall(h, S::kRun, place.lane);
      }
    }
    run_back(shared, products, place, rate, first, h, dh, dA);
  }
}

template <class S>
class BackwardBlock {
 public:
  __device__ BackwardBlock(BackwardShared<S>& shared, const BackwardParams& p,
                           const CudaBackwardPlan& plan, const BackwardSteps& steps,
                           const ChannelBlock& block, int64_t row, int64_t segment, int64_t slice,
                           bool first_of_slice)
      : shared_(shared),
        p_(p),
        plan_(plan),
        steps_(steps),
        block_(block),
        place_(plan),
        elements_(plan, block),
        products_(place_),
        row_(row),
        segment_(segment),
        begin_(segment * plan.segment),
        first_of_slice_(first_of_slice) {
    ready_tiles(shared.tile, p, elements_, block, row, begin_);
    load_rates(rate_, p, block, place_);
    if (threadIdx.x < BackwardShared<S>::kStagers) {
      shared.skip_sums[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      shared.bias_sums[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    const RowPlace<S> states;
    const int64_t token = (slice * p.batch + row) * p.length + begin_ + states.token;
    shared.shares[threadIdx.x] = plan.shares +
                                 ((token * p.groups + block.group) * 2 + states.which) * p.states +
                                 states.state();
    __syncthreads();
  }

  __device__ void run() {
    const int64_t end = min(begin_ + plan_.segment, p_.length);
    int64_t stop = end;
    for (int64_t s = p_.sequences.sequence_of(row_, end - 1); stop > begin_; --s) {
      const Sequences::Range range = p_.sequences.range(s);
      if (range.length == 0) continue;
      float carry[8];
      if (stop == range.begin + range.length) {
        load_states(carry, p_.dfinal_state, p_.dfinal_state.offset(s), block_, place_, p_.states);
      } else {
        load_numbers(carry,
                     plan_.adjoints + numbers_place<S>(plan_, row_ * plan_.segments + segment_,
                                                       block_.index, place_));
      }
      to_results(dh_, carry);
      piece(s, range, stop);
      if (p_.dinitial_state && begin_ <= range.begin) {
        from_results(carry, dh_);
        store_states(carry, p_.dinitial_state, p_.dinitial_state.offset(s), block_, place_,
                     p_.states);
      }
      stop = range.begin;
    }
    finish();
  }

 private:
  // What the segment has of sequence s up to token `stop`.
  __device__ void piece(int64_t s, const Sequences::Range& range, int64_t stop) {
    const int64_t walk = segment_ / plan_.walk;
    const bool starts = begin_ <= range.begin;
    const int from = starts ? static_cast<int>(range.begin - begin_) : 0;
    const int to = static_cast<int>(stop - begin_);
    // From slot to slot of the states and of `elapsed`.
    const int64_t slot = row_ * plan_.slots + (begin_ + from) / S::kTile;
    const float* const states =
        plan_.states + numbers_place<S>(plan_, slot, block_.index, place_);
    const int64_t elapsed_step = p_.groups * plan_.per_group * plan_.width;
    const float* elapsed = nullptr;
    if (range.begin < walk * plan_.walk * plan_.segment) {  // what came into the walk counts
      elapsed = plan_.elapsed + slot * elapsed_step + block_.index * plan_.width + place_.channel;
    }
    int tile_index = (to - 1 - from) / S::kTile;
    for (int tokens = to - from - tile_index * S::kTile; tile_index >= 0;
         --tile_index, tokens = S::kTile) {
      float h[8];
      if (starts && tile_index == 0) {
        load_states(h, p_.initial_state, p_.initial_state.offset(s), block_, place_, p_.states);
      } else {
        load_numbers(h, states + tile_index * plan_.numbers);
        if (elapsed) add_carry(h, walk, elapsed + tile_index * elapsed_step);
      }
      tile({from + tile_index * S::kTile, tokens}, h);
    }
  }

  // Adds what is left of the state that came into the walk.
  __device__ void add_carry(float (&h)[8], int64_t walk, const float* elapsed) const {
    float carry[8];
    load_numbers(carry, plan_.walk_states +
                            numbers_place<S>(plan_, row_ * plan_.walks + walk, block_.index, place_));
    const float dt[2] = {elapsed[0], elapsed[8]};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      h[k] = fmaf(device::exp2_approx(dt[k % 2] * rate_[k]), carry[k], h[k]);
    }
  }

  __device__ void tile(const Tile& tile, float (&h)[8]) {
    if (elements_.active) {
      stage_elements(shared_.tile, p_, steps_, elements_, block_, tile, true,
                     [&](int i, float of_y, float of_dt) {
                       shared_.slopes[i][threadIdx.x] = make_float2(of_y, of_dt);
                     });
    }
    stage_rows(shared_.tile, p_, steps_, plan_, tile, true);
    __syncthreads();
    scan_tile_back(shared_, products_, place_, rate_, h, dh_, dA_);
    __syncthreads();
    if (elements_.active && elements_.token < tile.tokens) finish_elements(tile);
    if (plan_.shares) flush_shares(tile);
  }

  __device__ void finish_elements(const Tile& tile) {
    constexpr int kCount = S::kElements;
    static_assert(kCount == 4);
    float sums[3][kCount] = {};
    const int first = elements_.channel / kWarpChannels * plan_.state_tiles;
    for (int i = first; i < first + plan_.state_tiles; ++i) {
      const auto from = shared_.warps[i].sums(i);
#pragma unroll
      for (int which = 0; which < 3; ++which) {
        float part[kCount];
        load_four(part, &from[which][elements_.token][elements_.channel % kWarpChannels]);
#pragma unroll
        for (int e = 0; e < kCount; ++e) sums[which][e] += part[e];
      }
    }
    float du[kCount], ddelta[kCount], dz[kCount], skip[kCount], skip_sum[kCount], bias_sum[kCount];
    load_four(skip, &shared_.tile.skip[elements_.channel]);
    load_four(skip_sum, &shared_.skip_sums[threadIdx.x].x);
    load_four(bias_sum, &shared_.bias_sums[threadIdx.x].x);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float4 in = shared_.tile.input(elements_.token, elements_.channel + i);
      const float2 slope = shared_.slopes[i][threadIdx.x];
      du[i] = in.x * sums[0][i] + skip[i] * in.z;
      ddelta[i] = (in.w * sums[0][i] + device::kLn2 * sums[1][i]) * slope.y;
      dz[i] = slope.x * (sums[2][i] + skip[i] * in.w);
      skip_sum[i] += in.z * in.w;
      bias_sum[i] += ddelta[i];
    }
    shared_.skip_sums[threadIdx.x] = make_float4(skip_sum[0], skip_sum[1], skip_sum[2], skip_sum[3]);
    shared_.bias_sums[threadIdx.x] = make_float4(bias_sum[0], bias_sum[1], bias_sum[2], bias_sum[3]);
    store(kDu, du, tile);
    store(kDdelta, ddelta, tile);
    store(kDz, dz, tile);
  }
  __device__ void store(int which, const float (&values)[S::kElements], const Tile& tile) const {
    const Tensor& tensor = element_tensor(p_, which);
    if (!tensor) return;
    elements_.store(values,
                    advanced<S>(shared_.tile.elements[which][threadIdx.x], tensor.stride[1],
                                steps_.elements[which], tile.first),
                    tensor, block_);
  }
  __device__ static void load_four(float (&to)[4], const float* from) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
  }

  // Adds what the warps have for the tile's dB and dC and hands it to the slice's row of plan.shares.
  __device__ void flush_shares(const Tile& tile) {
    const RowPlace<S> place;
    if (place.token >= tile.tokens) return;
    float* to = advanced<S>(shared_.shares[threadIdx.x], 2 * p_.groups * p_.states, steps_.shares,
                            tile.first);
    const int states = static_cast<int>(p_.states);
    int n = place.state();
    for (int i = place.state_tile; i < plan_.state_tiles && n < states; i += RowPlace<S>::kStep) {
      float2 sum = make_float2(0.0f, 0.0f);
      for (int warp = i; warp < S::kWarps; warp += plan_.state_tiles) {
        const float2 share = *reinterpret_cast<const float2*>(
            &shared_.warps[warp].shares()[place.which][place.token][2 * place.pair]);
        sum.x += share.x;
        sum.y += share.y;
      }
      if constexpr (S::kVectors) {
        auto* const pair = reinterpret_cast<float2*>(to);
        if (!first_of_slice_) sum = make_float2(pair->x + sum.x, pair->y + sum.y);
        *pair = sum;
      } else {
        to[0] = first_of_slice_ ? sum.x : to[0] + sum.x;
        if (n + 1 < states) to[1] = first_of_slice_ ? sum.y : to[1] + sum.y;
      }
      n += RowPlace<S>::kStep * kWarpStates;
      to += RowPlace<S>::kStep * kWarpStates;
    }
  }

  // Leaves what the segment adds to dA, dD and ddelta_bias in its row of plan.sums.
  __device__ void finish() {
    float* const to =
        plan_.sums + (row_ * plan_.segments + segment_) * (p_.states + 2) * p_.channels;
    place_.for_each([&](int k, int c, int n) {
      if (c < block_.count && n < p_.states) to[n * p_.channels + block_.first + c] = dA_[k];
    });
    __syncthreads();
    const int width = static_cast<int>(plan_.width);
    for (int i = threadIdx.x; i < 2 * width; i += S::kThreads) {
      const int which = i / width, c = i % width;
      if (c >= block_.count) continue;
      const float4* const sums = which ? shared_.bias_sums : shared_.skip_sums;
      float sum = 0.0f;
      for (int t = 0; t < S::kTile; ++t) {
        sum +=
            reinterpret_cast<const float*>(&sums[(t * width + c) / S::kElements])[c % S::kElements];
      }
      to[(p_.states + which) * p_.channels + block_.first + c] = sum;
    }
  }

  BackwardShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardSteps& steps_;
  const ChannelBlock block_;
  const LanePlace place_;
  const ElementPlace<S> elements_;
  const Products<S> products_;
  const int64_t row_, segment_, begin_;
  const bool first_of_slice_;
  float rate_[8], dh_[8], dA_[8] = {};
};

// A block for every (row, segment, group, slice), slices fastest.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kWarps == kFewWarps ? 3 : 1)
    backward_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ CudaBackwardPlan plan,
                    const __grid_constant__ BackwardSteps steps) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<BackwardShared<S>*>(memory);
  const int64_t slice = blockIdx.x % plan.slices;
  const int64_t group = blockIdx.x / plan.slices % p.groups;
  const int64_t segment = blockIdx.x / plan.slices / p.groups % plan.segments;
  const int64_t row = blockIdx.x / plan.slices / p.groups / plan.segments;
  for (int64_t i = slice; i < plan.per_group; i += plan.slices) {
    const ChannelBlock block(p, plan, group * plan.per_group + i);
    BackwardBlock<S>(shared, p, plan, steps, block, row, segment, slice, i == slice).run();
  }
}

}  // namespace hax::selective_scan
