// Backward of the selective scan. A block goes through a segment's tiles from the last to the first, through
// a tile run by run. A run's states are computed again from the one it starts with and kept for the way
// back: the decays in registers, the states in shared memory.
#pragma once

#include "device/flag.cuh"
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
  // The state before the next tile, of each lane.
  __device__ void fetch_next(int lane, const float* from) {
    device::copy_async<16>(&next_[0][lane], from);
    device::copy_async<16>(&next_[1][lane], from + 4);
  }
  __device__ void next(float (&h)[8], int lane) const {
    const float4 low = next_[0][lane], high = next_[1][lane];
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
  float4 next_[S::kVectors ? 2 : 1][S::kVectors ? device::kWarp : 1];
  alignas(16) float results_[S::kRuns > 1 ? kResults : 4];
};

// What a block has of a sequence in its segment, in tiles from token `from` of the segment on.
struct Piece {
  int from, to;
  bool starts;           // with the sequence
  const float* states;   // of the block where its tiles start, plan.numbers apart
  const float* elapsed;  // likewise; null: nothing comes into the walk
  const float* carry;    // what comes into the walk
};

template <class S>
struct BackwardShared {
  static constexpr int kStagers = TileShared<S>::kStagers;
  TileShared<S> tile;
  Piece piece;
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
__device__ void scan_tile_back(BackwardShared<S>& shared, const LanePlace& place,
                               const float (&rate)[8], float (&h)[8], float (&dh)[8],
                               float (&dA)[8]) {
  const Products<S> products(place, shared.tile);
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
                           const Work& work, int64_t slice, bool first_of_slice)
      : shared_(shared),
        p_(p),
        plan_(plan),
        steps_(steps),
        block_(shared.tile.work.channels),
        row_(shared.tile.work.row),
        segment_(shared.tile.work.part),
        begin_(shared.tile.work.begin),
        first_of_slice_(first_of_slice) {
    ready_tiles(shared.tile, p, plan, work);
    load_rates(rate_, p, work.channels, place());
    if (threadIdx.x < BackwardShared<S>::kStagers) {
      shared.skip_sums[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      shared.bias_sums[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    const RowPlace<S> states;
    const int64_t token = (slice * p.batch + work.row) * p.length + work.begin + states.token;
    shared.shares[states.thread] =
        plan.shares + ((token * p.groups + work.channels.group) * 2 + states.which) * p.states +
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
        load_states(carry, p_.dfinal_state, p_.dfinal_state.offset(s), block_, place(), p_.states);
      } else {
        if (plan_.turns) wait_for_neighbour();
        // Not through a cache that may hold what lay there before.
        load_numbers_fresh(
            carry, plan_.adjoints + numbers_place<S>(plan_, row_ * plan_.segments + segment_,
                                                     block_.index, place()));
      }
      to_results(dh_, carry);
      piece(s, range, stop);
      if (p_.dinitial_state && begin_ <= range.begin) {
        from_results(carry, dh_);
        store_states(carry, p_.dinitial_state, p_.dinitial_state.offset(s), block_, place(),
                     p_.states);
      }
      if (plan_.turns && range.begin < begin_) hand_over();
      stop = range.begin;
    }
    finish();
  }

 private:
  // The flag that segment_ - `before` may start.
  __device__ int* flag(int before) const {
    return plan_.handed_over +
           (row_ * plan_.segments + segment_ - before) * p_.groups * plan_.per_group + block_.index;
  }
  __device__ void wait_for_neighbour() const {
    if (threadIdx.x == 0) device::wait_for_flag(flag(0));
    __syncthreads();
  }
  // Gives the gradient of the state before the segment to the segment before.
  __device__ void hand_over() {
    float carry[8];
    from_results(carry, dh_);
    store_numbers(plan_.adjoints + numbers_place<S>(plan_, row_ * plan_.segments + segment_ - 1,
                                                    block_.index, place()),
                  carry);
    __syncthreads();
    if (threadIdx.x == 0) device::set_flag(flag(1));
  }

  // What the segment has of sequence s up to token `stop`.
  __device__ void piece(int64_t s, const Sequences::Range& range, int64_t stop) {
    __syncthreads();  // the piece before may still be in use
    if (threadIdx.x == 0) shared_.piece = piece_of(range, stop);
    __syncthreads();
    const int last = (shared_.piece.to - 1 - shared_.piece.from) / S::kTile;
    fetch(last);
    device::commit_copies();
#pragma unroll 1
    for (int index = last; index >= 0; --index) {
      device::wait_for_copies<0>();
      float h[8];
      if (shared_.piece.starts && index == 0) {
        load_states(h, p_.initial_state, p_.initial_state.offset(s), block_, place(), p_.states);
      } else {
        load_start(h, index);
      }
      stage_elements(shared_.tile, p_, plan_, block_, tile_of(index), true,
                     [&](int thread, int i, float of_y, float of_dt) {
                       shared_.slopes[i][thread] = make_float2(of_y, of_dt);
                     });
      stage_rows(shared_.tile, p_, steps_, plan_, tile_of(index), true);
      if (index > 0) fetch(index - 1);
      device::commit_copies();
      __syncthreads();
      scan_tile_back(shared_, place(), rate_, h, dh_, dA_);
      __syncthreads();
      finish_elements(tile_of(index));
      if (plan_.shares) flush_shares(tile_of(index));
    }
  }

  __device__ LanePlace place() const { return LanePlace(S::state_tiles(plan_)); }

  __device__ Piece piece_of(const Sequences::Range& range, int64_t stop) const {
    Piece piece = {};
    piece.starts = begin_ <= range.begin;
    piece.from = piece.starts ? static_cast<int>(range.begin - begin_) : 0;
    piece.to = static_cast<int>(stop - begin_);
    const int64_t slot = row_ * plan_.slots + (begin_ + piece.from) / S::kTile;
    piece.states = plan_.states + slot * plan_.numbers + block_.index * S::kWarps * kWarpNumbers;
    const int64_t walk = segment_ / plan_.walk;
    if (range.begin < walk * plan_.walk * plan_.segment) {
      piece.elapsed =
          plan_.elapsed + (slot * p_.groups * plan_.per_group + block_.index) * plan_.width;
      piece.carry = plan_.walk_states + (row_ * plan_.walks + walk) * plan_.numbers +
                    block_.index * S::kWarps * kWarpNumbers;
    }
    return piece;
  }
  __device__ Tile tile_of(int index) const {
    const int first = shared_.piece.from + index * S::kTile;
    return {first, min(S::kTile, shared_.piece.to - first)};
  }
  // The lane's numbers where the piece's tile starts.
  __device__ const float* start_of(int index) const {
    return shared_.piece.states + index * plan_.numbers + thread_index() * 8;
  }
  __device__ void fetch(int index) {
    fetch_tile(shared_.tile, p_, steps_, plan_, block_, tile_of(index), true);
    if (S::kVectors && (index > 0 || !shared_.piece.starts)) {
      const LanePlace own = place();
      shared_.warps[own.warp].fetch_next(own.lane, start_of(index));
    }
  }
  __device__ void load_start(float (&h)[8], int index) const {
    if constexpr (S::kVectors) {
      const LanePlace own = place();
      shared_.warps[own.warp].next(h, own.lane);
    } else {
      load_numbers(h, start_of(index));
    }
    if (shared_.piece.elapsed) add_carry(h, index);
  }

  // Adds what is left of the state that came into the walk.
  __device__ void add_carry(float (&h)[8], int index) const {
    float carry[8];
    load_numbers(carry, shared_.piece.carry + thread_index() * 8);
    const float* const elapsed = shared_.piece.elapsed + place().channel +
                                 index * (p_.groups * plan_.per_group * plan_.width);
    const float dt[2] = {elapsed[0], elapsed[8]};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      h[k] = fmaf(device::exp2_approx(dt[k % 2] * rate_[k]), carry[k], h[k]);
    }
  }

  __device__ void finish_elements(const Tile& tile) {
    constexpr int kCount = S::kElements;
    static_assert(kCount == 4);
    const ElementPlace<S> elements(plan_, block_);
    if (!elements.active || elements.token >= tile.tokens) return;
    float sums[3][kCount] = {};
    const int first = elements.channel / kWarpChannels * S::state_tiles(plan_);
    for (int i = first; i < first + S::state_tiles(plan_); ++i) {
      const auto from = shared_.warps[i].sums(i);
#pragma unroll
      for (int which = 0; which < 3; ++which) {
        float part[kCount];
        load_four(part, &from[which][elements.token][elements.channel % kWarpChannels]);
#pragma unroll
        for (int e = 0; e < kCount; ++e) sums[which][e] += part[e];
      }
    }
    float du[kCount], ddelta[kCount], dz[kCount], skip[kCount], skip_sum[kCount], bias_sum[kCount];
    load_four(skip, &shared_.tile.skip[elements.channel]);
    load_four(skip_sum, &shared_.skip_sums[elements.thread].x);
    load_four(bias_sum, &shared_.bias_sums[elements.thread].x);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float4 in = shared_.tile.input(elements.token, elements.channel + i);
      const float2 slope = shared_.slopes[i][elements.thread];
      // Cut: dy and dt u, then dh and h.
      const float from_B = S::uncut(2) * sums[0][i];
      du[i] = in.x * from_B + skip[i] * in.z;
      ddelta[i] = (in.w * from_B + device::kLn2 * S::uncut(3) * sums[1][i]) * slope.y;
      dz[i] = slope.x * (S::uncut(2) * sums[2][i] + skip[i] * in.w);
      skip_sum[i] += in.z * in.w;
      bias_sum[i] += ddelta[i];
    }
    shared_.skip_sums[elements.thread] =
        make_float4(skip_sum[0], skip_sum[1], skip_sum[2], skip_sum[3]);
    shared_.bias_sums[elements.thread] =
        make_float4(bias_sum[0], bias_sum[1], bias_sum[2], bias_sum[3]);
    store(kDu, du, tile, elements);
    store(kDdelta, ddelta, tile, elements);
    store(kDz, dz, tile, elements);
  }
  __device__ void store(int which, const float (&values)[S::kElements], const Tile& tile,
                        const ElementPlace<S>& elements) const {
    const Tensor& tensor = element_tensor(p_, which);
    if (!tensor) return;
    elements.store(values,
                   advanced<S>(shared_.tile.elements[which][elements.thread], tensor.stride[1],
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
    float* to = advanced<S>(shared_.shares[place.thread], 2 * p_.groups * p_.states, steps_.shares,
                            tile.first);
    const int states = static_cast<int>(p_.states);
    int n = place.state();
#pragma unroll 1
    for (int i = place.state_tile; i < S::state_tiles(plan_) && n < states;
         i += RowPlace<S>::kStep) {
      float2 sum = make_float2(0.0f, 0.0f);
      for (int warp = i; warp < S::kWarps; warp += S::state_tiles(plan_)) {
        const float2 share = *reinterpret_cast<const float2*>(
            &shared_.warps[warp].shares()[place.which][place.token][2 * place.pair]);
        sum.x += share.x;
        sum.y += share.y;
      }
      sum.x *= S::uncut(3);
      sum.y *= S::uncut(3);
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
    place().for_each([&](int k, int c, int n) {
      if (c < block_.count && n < p_.states)
        to[n * p_.channels + block_.first + c] = S::uncut(2) * dA_[k];
    });
    __syncthreads();
    const int width = S::width(plan_);
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
  const ChannelBlock& block_;
  const int64_t &row_, &segment_, &begin_;
  const bool first_of_slice_;
  float rate_[8], dh_[8], dA_[8] = {};
};

// A block for every (segment, row, group, slice), the last segments first, slices fastest. Where segments wait
// for each other blocks take turns as they start, so that those waited for are on their way.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kWarps == kFewWarps ? 3 : 1)
    backward_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ CudaBackwardPlan plan,
                    const __grid_constant__ BackwardSteps steps) {
  extern __shared__ __align__(16) unsigned char memory[];
  static_assert(sizeof(BackwardShared<S>) <= 98 * 1024, "some GPUs have 99 KiB");
  auto& shared = *reinterpret_cast<BackwardShared<S>*>(memory);
  int64_t turn = blockIdx.x;
  if (plan.turns) {
    __shared__ int own_turn;
    if (threadIdx.x == 0) own_turn = atomicAdd(plan.turns, 1);
    __syncthreads();
    turn = own_turn;
  }
  const int64_t slice = turn % plan.slices, rest = turn / plan.slices;
  const int64_t group = rest % p.groups, row = rest / p.groups % p.batch;
  const int64_t segment = plan.segments - 1 - rest / p.groups / p.batch;
  for (int64_t i = slice; i < plan.per_group; i += plan.slices) {
    const Work work = {channel_block(p, plan, group * plan.per_group + i), row, segment,
                       segment * plan.segment};
    BackwardBlock<S>(shared, p, plan, steps, work, slice, i == slice).run();
  }
}

}  // namespace hax::selective_scan
