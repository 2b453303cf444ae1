// Backward of the selective scan. A block goes through a segment's tiles from the last to the first. A tile's
// states are computed again from the one it starts with and kept for the way back: the decays in
// registers, the states in shared memory.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_backward_products.cuh"

namespace hax::selective_scan {

// A warp's memory: the states before each token of a tile, and when those are done with, what the tile gives.
template <class S>
class WarpShared {
 public:
  using Sums = float (*)[kWarpChannels][kSumStride];
  using Shares = float (*)[S::kTile][kShareStride];

  __device__ void keep(int t, int lane, const float (&h)[8]) {
    history_[t][0][lane] = make_float4(h[0], h[1], h[2], h[3]);
    history_[t][1][lane] = make_float4(h[4], h[5], h[6], h[7]);
  }
  __device__ void recall(float (&h)[8], int t, int lane) const {
    const float4 low = history_[t][0][lane], high = history_[t][1][lane];
    h[0] = low.x, h[1] = low.y, h[2] = low.z, h[3] = low.w;
    h[4] = high.x, h[5] = high.y, h[6] = high.z, h[7] = high.w;
  }
  // Over n: dh B; dh decay h A log2(e); C h. `warp` staggers the warps' banks.
  __device__ Sums sums(int warp) {
    return reinterpret_cast<Sums>(reinterpret_cast<float*>(history_) + 2 * (warp % 8));
  }
  // Over the warp's channels: dB, dC.
  __device__ Shares shares() {
    constexpr int kBehind = 3 * kWarpChannels * kSumStride + 16;
    static_assert((kBehind + 2 * S::kTile * kShareStride) * sizeof(float) <= sizeof(history_));
    return reinterpret_cast<Shares>(reinterpret_cast<float*>(history_) + kBehind);
  }

 private:
  float4 history_[S::kTile][2][device::kWarp];
};

template <class S>
struct BackwardShared {
  static constexpr int kStagers = S::kTile * S::kMostChannels / S::kElements;
  TileShared<S> tile;
  WarpShared<S> warps[S::kWarps];
  // Of each staging thread: slopes of a tile's elements, sums over its tiles.
  float2 slopes[S::kElements][kStagers];  // of dz by y, of delta by dt
  float4 skip_sums[kStagers], bias_sums[kStagers];
};

// From a tile's start to its end and back. h: the state before the tile. dh: gradient of the state behind it,
// then before it.
template <class S>
__device__ void scan_tile_back(BackwardShared<S>& shared, const Products<S>& products,
                               const LanePlace& place, const float (&rate)[8], float (&h)[8],
                               float (&dh)[8], float (&dA)[8]) {
  const TileShared<S>& tile = shared.tile;
  WarpShared<S>& own = shared.warps[place.warp];
  typename Products<S>::Row B, C;
  products.load(B, tile.B[place.state_tile], true);
  products.load(C, tile.C[place.state_tile], true);
  float decays[S::kTile][8];
#pragma unroll
  for (int t = 0; t < S::kTile; ++t) {
    const float4 low = tile.input(t, place.channel), high = tile.input(t, place.channel + 8);
    const float dt[2] = {low.x, high.x}, dtu[2] = {low.y, high.y};
    own.keep(t, place.lane, h);
    float added[8] = {};
    products.add_outer(added, dtu, B, t);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      decays[t][k] = S::decay(dt[k / 2 % 2] * rate[k]);
      h[k] = S::decayed(decays[t][k], h[k], added[k]);
    }
  }
  ChannelSums from_B = {}, from_A = {}, from_C = {};
  typename Products<S>::StateSums dB = {}, dC = {};
#pragma unroll
  for (int t = S::kTile - 1; t >= 0; --t) {
    const float4 low = tile.input(t, place.channel), high = tile.input(t, place.channel + 8);
    const float dt[2] = {low.x, high.x}, dtu[2] = {low.y, high.y}, g[2] = {low.z, high.z};
    products.add_outer(dh, g, C, t);
    products.sum_states(from_B, dh, B, t);
    products.sum_states(from_C, h, C, t);
    float before[8], part[2] = {}, of_B[4] = {}, of_C[4] = {};
    own.recall(before, t, place.lane);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int m = k / 2 % 2, n = k / 4 * 2 + k % 2;
      of_B[n] = fmaf(dtu[m], dh[k], of_B[n]);
      of_C[n] = fmaf(g[m], h[k], of_C[n]);
      dh[k] = S::decayed(decays[t][k], dh[k]);
      const float faded = dh[k] * before[k];
      part[m] = fmaf(faded, rate[k], part[m]);
      dA[k] = fmaf(faded, dt[m], dA[k]);
      h[k] = before[k];
    }
    products.sum_lanes(from_A, part, t);
    products.sum_channels(dB, of_B, t);
    products.sum_channels(dC, of_C, t);
  }
  __syncwarp();
  const auto sums = own.sums(place.warp);
  store_sums(sums[0], from_B, place, S::kTile);
  store_sums(sums[1], from_A, place, S::kTile);
  store_sums(sums[2], from_C, place, S::kTile);
  const auto shares = own.shares();
  products.store_shares(shares[0], dB);
  products.store_shares(shares[1], dC);
}

template <class S>
class BackwardBlock {
 public:
  __device__ BackwardBlock(BackwardShared<S>& shared, const BackwardParams& p,
                           const CudaBackwardPlan& plan, const BackwardAccess& access,
                           const ChannelBlock& block, int64_t row, int64_t segment, int64_t slice,
                           bool first_of_slice)
      : shared_(shared),
        p_(p),
        plan_(plan),
        access_(access),
        block_(block),
        place_(plan),
        elements_(plan),
        products_(place_),
        row_(row),
        segment_(segment),
        slice_(slice),
        first_of_slice_(first_of_slice) {
    __syncthreads();  // the channels before may still be in use
    load_channels(shared_.tile, p, block);
    load_rates(rate_, p, block, place_);
    if (elements_.active) {
      shared_.skip_sums[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      shared_.bias_sums[threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    __syncthreads();
  }

  __device__ void run() {
    const int64_t begin = segment_ * plan_.segment, end = min(begin + plan_.segment, p_.length);
    const int64_t walk_begin = segment_ / plan_.walk * plan_.walk * plan_.segment;
    int64_t stop = end;
    for (int64_t s = p_.sequences.sequence_of(row_, end - 1); stop > begin; --s) {
      const Sequences::Range range = p_.sequences.range(s);
      if (range.length == 0) continue;
      if (stop == range.begin + range.length) {
        load_states(dh_, p_.dfinal_state, p_.dfinal_state.offset(s), block_, place_, p_.states);
      } else {
        load_numbers(dh_, plan_.adjoints + numbers_place<S>(plan_, row_ * plan_.segments + segment_,
                                                            block_.index, place_));
      }
      const int64_t first = max(begin, range.begin);
      for (int64_t t = first + (stop - 1 - first) / S::kTile * S::kTile; t >= first; t -= S::kTile) {
        float h[8];
        if (t == range.begin) {
          load_states(h, p_.initial_state, p_.initial_state.offset(s), block_, place_, p_.states);
        } else {
          load_start(h, t, range.begin < walk_begin);
        }
        tile({row_, t, static_cast<int>(min(int64_t{S::kTile}, stop - t))}, h, t > begin);
      }
      if (p_.dinitial_state && first == range.begin) {
        store_states(dh_, p_.dinitial_state, p_.dinitial_state.offset(s), block_, place_, p_.states);
      }
      stop = first;
    }
    finish();
  }

 private:
  // The state before token t. `carried`: what came into the walk counts.
  __device__ void load_start(float (&h)[8], int64_t t, bool carried) const {
    const int64_t slot = row_ * plan_.slots + t / S::kTile;
    load_numbers(h, plan_.states + numbers_place<S>(plan_, slot, block_.index, place_));
    if (!carried) return;
    float carry[8];
    load_numbers(carry, plan_.walk_states + numbers_place<S>(plan_, row_ * plan_.walks + segment_ / plan_.walk,
                                                             block_.index, place_));
    const float* const elapsed =
        plan_.elapsed + (slot * p_.groups * plan_.per_group + block_.index) * plan_.width;
    const float dt[2] = {elapsed[place_.channel], elapsed[place_.channel + 8]};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      h[k] = fmaf(device::exp2_approx(dt[k / 2 % 2] * rate_[k]), carry[k], h[k]);
    }
  }

  // `more`: the tile before this one comes next.
  __device__ void tile(const Tile& tile, float (&h)[8], bool more) {
    if (elements_.active) {
      stage_elements(shared_.tile, p_, access_, elements_, block_, tile, true,
                     [&](int i, float of_y, float of_dt) {
                       shared_.slopes[i][threadIdx.x] = make_float2(of_y, of_dt);
                     });
    }
    stage_rows<S>(shared_.tile.B, p_.B, access_.B, plan_, p_, row_, tile.first, tile.tokens,
                  block_.group);
    stage_rows<S>(shared_.tile.C, p_.C, access_.C, plan_, p_, row_, tile.first, tile.tokens,
                  block_.group);
    if (more && elements_.active) {
      const int64_t before = max(tile.first - S::kTile, int64_t{0});
      elements_.prefetch(p_.u, access_.u, row_, before, block_);
      elements_.prefetch(p_.delta, access_.delta, row_, before, block_);
      elements_.prefetch(p_.dy, access_.dy, row_, before, block_);
      if (p_.z) elements_.prefetch(p_.z, access_.z, row_, before, block_);
    }
    __syncthreads();
    scan_tile_back(shared_, products_, place_, rate_, h, dh_, dA_);
    __syncthreads();
    if (elements_.active) finish_elements(tile);
    if (plan_.shares) flush_shares(tile);
  }

  __device__ float sum_of(int which, int channel) const {
    const int first = channel / kWarpChannels * plan_.state_tiles;
    float sum = 0.0f;
    for (int i = 0; i < plan_.state_tiles; ++i) {
      sum += shared_.warps[first + i].sums(first + i)[which][channel % kWarpChannels][elements_.token];
    }
    return sum;
  }

  __device__ void finish_elements(const Tile& tile) {
    constexpr int kCount = S::kElements;
    float du[kCount], ddelta[kCount], dz[kCount];
    float4 skip_sums = shared_.skip_sums[threadIdx.x], bias_sums = shared_.bias_sums[threadIdx.x];
    float* const skip_sum = &skip_sums.x;
    float* const bias_sum = &bias_sums.x;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int c = elements_.channel + i;
      const float4 in = shared_.tile.input(elements_.token, c);
      const float2 slope = shared_.slopes[i][threadIdx.x];
      const float skip = shared_.tile.skip[c];
      const float from_B = sum_of(0, c);
      const float ddt = in.w * from_B + device::kLn2 * sum_of(1, c);
      du[i] = in.x * from_B + skip * in.z;
      ddelta[i] = ddt * slope.y;
      dz[i] = slope.x * (sum_of(2, c) + skip * in.w);
      const bool used = elements_.token < tile.tokens && c < block_.count;
      skip_sum[i] += used ? in.z * in.w : 0.0f;
      bias_sum[i] += used ? ddelta[i] : 0.0f;
    }
    shared_.skip_sums[threadIdx.x] = skip_sums;
    shared_.bias_sums[threadIdx.x] = bias_sums;
    const auto store = [&](const Tensor& tensor, bool vectors, const float(&values)[kCount]) {
      if (tensor) {
        elements_.store(values, tensor, vectors, row_, tile.first, tile.tokens, block_);
      }
    };
    store(p_.du, access_.du, du);
    store(p_.ddelta, access_.ddelta, ddelta);
    store(p_.dz, access_.dz, dz);
  }

  // Adds what the warps have for the tile's dB and dC and hands it to the slice's row of plan.shares.
  __device__ void flush_shares(const Tile& tile) {
    const int per_row = plan_.state_tiles * (kWarpStates / 2);
    for (int i = threadIdx.x; i < 2 * S::kTile * per_row; i += S::kThreads) {
      const int n = i % per_row * 2, t = i / per_row % S::kTile, which = i / per_row / S::kTile;
      if (t >= tile.tokens || n >= p_.states) continue;
      float2 sum = make_float2(0.0f, 0.0f);
      for (int warp = n / kWarpStates; warp < S::kWarps; warp += plan_.state_tiles) {
        const float2 share = *reinterpret_cast<const float2*>(
            &shared_.warps[warp].shares()[which][t][n % kWarpStates]);
        sum.x += share.x;
        sum.y += share.y;
      }
      const int64_t at = (slice_ * p_.batch + row_) * p_.length + tile.first + t;
      float* const to =
          plan_.shares + ((at * p_.groups + block_.group) * 2 + which) * p_.states + n;
      if (p_.states % 2 == 0) {
        auto* const pair = reinterpret_cast<float2*>(to);
        if (!first_of_slice_) sum = make_float2(pair->x + sum.x, pair->y + sum.y);
        *pair = sum;
      } else {
        to[0] = first_of_slice_ ? sum.x : to[0] + sum.x;
        if (n + 1 < p_.states) to[1] = first_of_slice_ ? sum.y : to[1] + sum.y;
      }
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
        sum += reinterpret_cast<const float*>(&sums[(t * width + c) / S::kElements])[c % S::kElements];
      }
      to[(p_.states + which) * p_.channels + block_.first + c] = sum;
    }
  }

  BackwardShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const ChannelBlock block_;
  const LanePlace place_;
  const ElementPlace<S> elements_;
  const Products<S> products_;
  const int64_t row_, segment_, slice_;
  const bool first_of_slice_;
  float rate_[8], dh_[8], dA_[8] = {};
};

// A block for every (row, segment, group, slice), slices fastest.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kWarps == kFewWarps ? 3 : 1)
    backward_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ CudaBackwardPlan plan,
                    const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<BackwardShared<S>*>(memory);
  const int64_t slice = blockIdx.x % plan.slices;
  const int64_t group = blockIdx.x / plan.slices % p.groups;
  const int64_t segment = blockIdx.x / plan.slices / p.groups % plan.segments;
  const int64_t row = blockIdx.x / plan.slices / p.groups / plan.segments;
  for (int64_t i = slice; i < plan.per_group; i += plan.slices) {
    const ChannelBlock block(p, plan, group * plan.per_group + i);
    BackwardBlock<S>(shared, p, plan, access, block, row, segment, slice, i == slice).run();
  }
}

}  // namespace hax::selective_scan
