// What the states carried into segments add to their outputs: sum over n of C h 2^(rate S), where S is the sum of the
// steps since the segment began. Tokens do not wait for each other here, so a warp's lanes take one each, of as many
// channels as 32 bytes hold. States are left out once too little is left of them.
#pragma once

#include "scan/selective_scan/selective_scan_kernel_forward_carried_channels.cuh"

namespace hax::selective_scan {

// Tokens [first, first + tokens) of a sequence as far as there are such.
__device__ inline Sequences::Range part_of(const Sequences::Range& all, int64_t first,
                                           int64_t tokens) {
  return {all.row, all.begin + first, max(int64_t{0}, min(tokens, all.length - first))};
}

template <class T>
struct CarriedShared {
  CarriedChannels<T> channels;
  // Every warp's tile, by pairs of channels, which a rolled loop goes through: unrolled it outgrows the instruction cache.
  using Tile = Held<T, 2>[3][CarriedShape<T>::kChannels / 2][device::kWarp];  // delta, z, y
  Tile tiles[CarriedShape<T>::kWalkers];
  // Of every warp's channels: the steps' sum so far.
  float elapsed[CarriedShape<T>::kWalkers][CarriedShape<T>::kChannels];
};

template <class T>
class CarriedWarp {
 public:
  using S = CarriedShape<T>;
  static constexpr int kChannels = S::kChannels;

  __device__ CarriedWarp(const ForwardParams& p, const BlockChannels& block,
                         CarriedShared<T>& shared)
      : p_(p),
        block_(block),
        channels_(shared.channels),
        tile_(shared.tiles[threadIdx.x / device::kWarp]),
        elapsed_(shared.elapsed[threadIdx.x / device::kWarp]),
        lane_(static_cast<int>(threadIdx.x % device::kWarp)) {
    const auto whole = [&](const Tensor& t) {
      constexpr int kVector = device::kVectorElements<T>;
      return t.stride[0] % kVector == 0 && t.stride[1] % kVector == 0 &&
             reinterpret_cast<uintptr_t>(t.at<T>(0, 0, block.first)) % 16 == 0;
    };
    vectors_ = block.count == kChannels && whole(p.delta) && whole(p.y) && (!p.z || whole(p.z));
  }

  // Adds to the outputs of a walk, the tokens `range`. elapsed: by channels, the steps' sum before it; none where that
  // is 0. Whether any state counts beyond.
  __device__ bool run(const Sequences::Range& range, const float* elapsed) {
    const int64_t token = range.begin + lane_;
    delta_ = p_.delta.at<T>(range.row, token, block_.first);
    z_ = p_.z ? p_.z.at<T>(range.row, token, block_.first) : nullptr;
    T* y = p_.y.at<T>(range.row, token, block_.first);
    y_ = y;
    C_ = p_.C.at<T>(range.row, token, block_.group);
    if (lane_ < kChannels)
      elapsed_[lane_] = elapsed && lane_ < block_.count ? elapsed[lane_] : 0.0f;
    __syncwarp();
    uint32_t counting = look();
    Token next;
    int left = static_cast<int>(range.length) - lane_;  // from the lane's token on
    if (counting != 0) fetch(next, left);
    while (counting != 0 && left + lane_ > 0) {
      const Held<T, S::kStates> C = next.C;
      put(0, next.delta);
      put(1, next.z);
      put(2, next.y);
      fetch(next, left - device::kWarp);
#pragma unroll 1
      for (int pair = 0; pair < kChannels / 2; ++pair) {
        if ((counting >> pair * 2 & 3) == 0) continue;
        const Held<T, 2> delta = tile_[0][pair][lane_], z = tile_[1][pair][lane_];
        Held<T, 2>& y = tile_[2][pair][lane_];
        float sums[2];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          sums[m] = added(pair * 2 + m, delta.get(m), C, left > 0);
          if (p_.z) sums[m] *= device::silu(z.get(m));
        }
        y.set_pair(0, y.get(0) + sums[0], y.get(1) + sums[1]);
      }
      if (left > 0) {
        Elements outputs;
        take(outputs, 2);
        store(y, outputs);
      }
      y += device::kWarp * p_.y.stride[1];
      left -= device::kWarp;
      __syncwarp();
      counting = look();
    }
    return counting != 0;
  }

 private:
  using Elements = Held<T, kChannels>;
  struct Token {
    Elements delta, z, y;
    Held<T, S::kStates> C;
  };

  // The lane's token of the next tile, if there is one.
  __device__ void fetch(Token& to, int left) {
    to.delta.clear();
    to.z.clear();
    if (left > 0) {
      load(to.delta, delta_);
      if (z_) load(to.z, z_);
      load(to.y, y_);
      to.C.load(C_);
    }
    delta_ += device::kWarp * p_.delta.stride[1];
    if (z_) z_ += device::kWarp * p_.z.stride[1];
    y_ += device::kWarp * p_.y.stride[1];
    C_ += device::kWarp * p_.C.stride[1];
  }

  // A lane's own part of the tile.
  __device__ void put(int tensor, const Elements& from) {
    constexpr int kWords = 2 / Elements::kPerWord;
#pragma unroll
    for (int pair = 0; pair < kChannels / 2; ++pair) {
      memcpy(&tile_[tensor][pair][lane_], &from.words[pair * kWords], kWords * 4);
    }
  }
  __device__ void take(Elements& to, int tensor) const {
    constexpr int kWords = 2 / Elements::kPerWord;
#pragma unroll
    for (int pair = 0; pair < kChannels / 2; ++pair) {
      memcpy(&to.words[pair * kWords], &tile_[tensor][pair][lane_], kWords * 4);
    }
  }

  // Channel c's sum for the lane's token.
  __device__ float added(int c, float delta, const Held<T, S::kStates>& C, bool used) {
    float dt = delta + channels_.bias[c];
    if (p_.softplus) dt = device::softplus(dt);
    const float before = elapsed_[c];
    float elapsed = used ? dt : 0.0f;
#pragma unroll
    for (int distance = 1; distance < device::kWarp; distance *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, elapsed, distance);
      if (lane_ >= distance) elapsed += other;
    }
    elapsed += before;
    __syncwarp();
    if (lane_ == device::kWarp - 1) elapsed_[c] = elapsed;
    const float4 until = *reinterpret_cast<const float4*>(channels_.until[c]);
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < S::kStates; n += 4) {
      const float end = n == 0 ? until.x : n == 4 ? until.y : n == 8 ? until.z : until.w;
      if (!(before < end)) continue;
      float rate[4], h[4];
      load_row(rate, &channels_.rate[c][n]);
      load_row(h, &channels_.h[c][n]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        sum += C.get(n + k) * (h[k] * device::exp2_approx(rate[k] * elapsed));
      }
    }
    return sum;
  }

  // The channels of which states count, a bit each.
  __device__ uint32_t look() const {
    return __ballot_sync(
        0xffffffffu,
        lane_ < kChannels && channels_.counts(lane_ % kChannels, elapsed_[lane_ % kChannels]));
  }

  __device__ void load(Elements& to, const T* from) const {
    for_each_word(
        [&](int i) {
          const uint4 v = reinterpret_cast<const uint4*>(from)[i];
          memcpy(&to.words[i * 4], &v, sizeof(v));
        },
        [&](int i) { to.words[i] = reinterpret_cast<const uint32_t*>(from)[i]; });
  }
  __device__ void store(T* to, const Elements& from) const {
    for_each_word(
        [&](int i) {
          reinterpret_cast<uint4*>(to)[i] =
              make_uint4(from.words[i * 4], from.words[i * 4 + 1], from.words[i * 4 + 2],
                         from.words[i * 4 + 3]);
        },
        [&](int i) { reinterpret_cast<uint32_t*>(to)[i] = from.words[i]; });
  }
  // vector(i) where channels are whole vectors, otherwise word(i) for the words that the block has.
  template <class Vector, class Word>
  __device__ void for_each_word(Vector&& vector, Word&& word) const {
    constexpr int kPerWord = Elements::kPerWord, kWords = kChannels / kPerWord;
    if (vectors_) {
#pragma unroll
      for (int i = 0; i < kWords / 4; ++i) vector(i);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        if (i * kPerWord < block_.count) word(i);
      }
    }
  }

  const ForwardParams& p_;
  const BlockChannels& block_;
  const CarriedChannels<T>& channels_;
  typename CarriedShared<T>::Tile& tile_;
  float* const elapsed_;
  const int lane_;
  bool vectors_;
  const T *delta_, *z_, *C_, *y_;
};

// A block for every (segment, block of channels), channels fastest.
template <class T>
__global__ void __launch_bounds__(CarriedShape<T>::kThreads, 5)
    carried_kernel(const __grid_constant__ ForwardParams p,
                   const __grid_constant__ ForwardLayout layout) {
  using S = CarriedShape<T>;
  __shared__ CarriedShared<T> shared;
  const BlockChannels block(p, blockIdx.x % layout.blocks, S::kChannels);
  const unsigned place = blockIdx.x / layout.blocks;
  const int64_t sequence = place / layout.segments, segment = place % layout.segments;
  if (segment == 0) return;
  shared.channels.load(p, layout, block, place);
  __syncthreads();
  CarriedWarp<T> warp(p, block, shared);
  const Sequences::Range all =
      part_of(p.sequences.range(sequence), segment * layout.segment, layout.segment);
  for (unsigned walk = threadIdx.x / device::kWarp; walk < layout.walks; walk += S::kWalkers) {
    const Sequences::Range range = part_of(all, walk * layout.walk, layout.walk);
    if (range.length == 0) return;
    const float* const elapsed =
        walk > 0 ? layout.elapsed.at<float>(place, walk - 1, block.first) : nullptr;
    // Steps that softplus makes are never negative.
    if (!warp.run(range, elapsed) && p.softplus) return;
  }
}

}  // namespace hax::selective_scan
