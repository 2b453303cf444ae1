// Forward of a sliding window alone, up to kBandWindow keys long, in 16-bit types: a block goes along a strip of
// consecutive tiles of one head, whose queries, keys and values stream through shared memory. A warp's 16 queries have
// their keys in five neighbouring blocks of 16, so all scores of a query are there at once.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_mma.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_softmax.cuh"

namespace hax::sparse_attention {

inline constexpr int kBandThreads = 256;
inline constexpr int kBandTokens = 16 * kBandThreads / 32;  // of a tile
inline constexpr int kBandBlocks = kBandWindow / 16 + 1;    // of 16 keys that a warp meets
// Keys are kept in a ring: those before the tile, those of the tile, and those of the next one.
inline constexpr int kBandRing = kBandWindow + 2 * kBandTokens;
static_assert(kBandTokens % kBandWindow == 0);

// Rows of queries, keys and values are equally wide. Their groups of 16 bytes are exchanged by row & 7, so that eight
// rows lie in different banks without padding.
template <class T, int kWidth_>
struct BandShape {
  using Type = T;
  static constexpr int kWidth = kWidth_;
  static constexpr size_t kSharedSize = sizeof(T) * kWidth * (2 * kBandTokens + 2 * kBandRing);
};

// Tiles of a row of the batch that one block goes along, and such strips of a row.
struct BandStrips {
  int64_t tiles, count;

  HAX_EVERYWHERE explicit BandStrips(const ForwardParams& p) {
    constexpr int64_t kBlocks = 132, kFewestTiles = 2;
    const int64_t places = Tiling{kBandTokens}.places(p.sequences);
    const int64_t rows = p.sequences.batch * p.q_heads;
    // One wave where there are few rows; otherwise several, so that the last one matters little.
    const int64_t wanted =
        rows <= kBlocks ? kBlocks / (rows > 0 ? rows : 1) : (4 * kBlocks + rows - 1) / rows;
    const int64_t most = places / kFewestTiles;
    count = wanted < most ? wanted : most;
    if (count < 1) count = 1;
    tiles = (places + count - 1) / count;
  }
};

template <class Shape>
class BandTile {
 public:
  using T = typename Shape::Type;
  using Products = WarpProducts<T>;
  static constexpr int kWidth = Shape::kWidth;
  static constexpr int kGroup = 8;  // elements of 16 bytes
  static constexpr int kRowsAtOnce = kBandThreads / kRowLanes;
  static constexpr int kScores = 2 * kBandBlocks;

  __device__ BandTile(T* memory, int window, float scale)
      : memory_(memory),
        window_(window),
        scale_(scale * device::kLog2E),
        lane_(static_cast<int>(threadIdx.x % 32)),
        warp_(static_cast<int>(threadIdx.x / 32)) {}

  __device__ T* queries(int buffer) const { return memory_ + buffer * kBandTokens * kWidth; }
  __device__ T* keys() const { return memory_ + 2 * kBandTokens * kWidth; }
  __device__ T* values() const { return keys() + kBandRing * kWidth; }
  __device__ static T* group(T* row, int row_number, int at) {
    return row + (at ^ (row_number & 7)) * kGroup;
  }

  // Begins to copy rows [first, last) of a sequence, at most kRows, with zeros behind them. to: row r of them, a multiple
  // of 8 rows from a multiple of 8.
  template <int kRows, class To>
  __device__ __forceinline__ void load(const RowsView<T>& from, int64_t first, int64_t last,
                                       To&& to) const {
    const int row = static_cast<int>(threadIdx.x) / kRowLanes, lane = lane_ % kRowLanes;
    const auto count = static_cast<int32_t>(last - first);
    const T* data = from.data + (first + row) * from.short_stride;
#pragma unroll
    for (int r = 0; r < kRows; r += kRowsAtOnce) {
      const bool present = r + row < count;
      T* const row_to = to(r + row);
#pragma unroll
      for (int g = 0; g < kWidth / kGroup; g += kRowLanes) {
        const bool valid = present && (lane + g) * kGroup < from.columns;
        device::copy_async_16(group(row_to, row, lane + g),
                              valid ? data + (lane + g) * kGroup : from.data, valid);
      }
      data += kRowsAtOnce * int64_t{from.short_stride};
    }
  }

  // Outputs of this warp's 16 queries. ring: where the window before the tile begins.
  __device__ __forceinline__ void compute(const TileRange& tile, int buffer, int ring) {
    float s[kScores][4] = {};
    const int row = lane_ % 8;
    const T* const a_row = queries(buffer) + (warp_ * 16 + lane_ % 16) * kWidth;
    int block_row[kBandBlocks];  // in the ring
#pragma unroll
    for (int block = 0; block < kBandBlocks; ++block) {
      const int at = ring + (warp_ + block) * 16;
      block_row[block] = at < kBandRing ? at : at - kBandRing;
    }
    // Whether any key of a block can be selected.
    const auto used = [&](int block) {
      return (tile.first > 0 || (warp_ + block) * 16 >= kBandWindow) &&
             kBandWindow - block * 16 - 15 < window_;
    };
#pragma unroll
    for (int k = 0; k < kWidth / kGroup; k += 2) {
      uint32_t a[4];
      device::load_matrix_x4(a, a_row + ((k + lane_ / 16) ^ row) * kGroup);
      const T* const b_row =
          keys() + (row + lane_ / 16 * 8) * kWidth + ((k + lane_ / 8 % 2) ^ row) * kGroup;
#pragma unroll
      for (int block = 0; block < kBandBlocks; ++block) {
        uint32_t b[4];
        device::load_matrix_x4(b, b_row + block_row[block] * kWidth);
        device::mma_16x8x16<T>(s[2 * block], a, {b[0], b[1]});
        device::mma_16x8x16<T>(s[2 * block + 1], a, {b[2], b[3]});
      }
    }
#pragma unroll
    for (int n = 0; n < kScores; ++n) {
      const bool there = used(n / 2);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // Query minus key.
        const int distance = kBandWindow - n * 8 + lane_ / 4 + e / 2 * 8 - lane_ % 4 * 2 - e % 2;
        const bool selected =
            there && static_cast<uint32_t>(distance) < static_cast<uint32_t>(window_);
        s[n][e] = selected ? above_infinity(s[n][e] * scale_) : -INFINITY;
      }
    }
    softmax_ = {};
    float correction[2];
    softmax_.take(s, correction);
    softmax_.finish();
    const auto add_values = [&](auto&& add) {
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[n][e] = 0.0f;
      }
#pragma unroll
      for (int block = 0; block < kBandBlocks; ++block) {
        if (!used(block)) continue;
        const T* const rows = values() + (block_row[block] + lane_ % 16) * kWidth;
        add(reinterpret_cast<const float(&)[2][4]>(s[2 * block]),
            [&, rows](uint32_t(&b)[4], int, int n) {
              device::load_matrix_x4_transposed(b, rows + ((n + lane_ / 16) ^ row) * kGroup);
            });
      }
    };
    add_values([&](const float(&p)[2][4], auto&& load) { Products::outputs(out_, p, load); });
    // A value that isn't finite makes outputs NaN that have nothing to do with it.
    if (__any_sync(0xffffffffu, infinite())) {
      add_values([&](const float(&p)[2][4], auto&& load) {
        Products::outputs_with_infinities(out_, p, load);
      });
    }
  }

  // By way of the rows of the warp's own queries.
  __device__ __forceinline__ void store(const TileRange& tile, int buffer, const RowsView<T>& o,
                                        float* lse, int64_t lse_stride) const {
    T* const own = queries(buffer) + warp_ * 16 * kWidth;
    const auto first = static_cast<int32_t>(tile.first) + warp_ * 16;
    const int count = static_cast<int>(tile.last - first);
    __syncwarp();
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int r = lane_ / 4 + row * 8;
      float factor = softmax_.empty(row) ? 0.0f : device::reciprocal_approx(softmax_.sum[row]);
      if (softmax_.undefined(row)) factor = NAN;
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
        *reinterpret_cast<uint32_t*>(group(own + r * kWidth, r, n) + lane_ % 4 * 2) =
            device::pack_pair<T>(out_[n][2 * row] * factor, out_[n][2 * row + 1] * factor);
      }
      if (lse && lane_ % 4 == 0 && r < count) {
        const bool none = softmax_.empty(row) || softmax_.undefined(row);
        lse[(first + r) * lse_stride] = none ? -INFINITY : softmax_.log2_sum(row) * device::kLn2;
      }
    }
    __syncwarp();
#pragma unroll
    for (int r = lane_ / 8; r < 16; r += 4) {
      if (r >= count) break;
      T* const to = o.data + (first + r) * int64_t{o.short_stride};
#pragma unroll
      for (int g = lane_ % 8; g < kWidth / kGroup; g += 8) {
        if (g * kGroup >= o.columns) break;
        *reinterpret_cast<uint4*>(to + g * kGroup) =
            *reinterpret_cast<const uint4*>(group(own + r * kWidth, r, g));
      }
    }
  }

 private:
  __device__ bool infinite() const {
    float zeros[4] = {};
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) zeros[e] = fmaf(out_[n][e], 0.0f, zeros[e]);
    }
    return zeros[0] + zeros[1] + zeros[2] + zeros[3] != 0.0f;
  }

  T* const memory_;
  const int window_;
  const float scale_;
  const int lane_, warp_;
  RunningSoftmax softmax_;
  float out_[kWidth / 8][4];
};

// Neighbouring blocks work on the heads of the same tokens.
template <class Shape>
__global__ void __launch_bounds__(kBandThreads)
    band_kernel(const __grid_constant__ ForwardParams p, const BandStrips strips) {
  using T = typename Shape::Type;
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  const auto heads = static_cast<uint32_t>(p.q_heads);
  const auto count = static_cast<uint32_t>(strips.count);
  const uint32_t q_head = blockIdx.x % heads;
  const int64_t row = blockIdx.x / heads / count;
  const int64_t k_head = q_head / (heads / static_cast<uint32_t>(p.k_heads));
  const Tiling tiling{kBandTokens};
  const int64_t begin = blockIdx.x / heads % count * strips.tiles;
  const int64_t end = min(begin + strips.tiles, tiling.places(p.sequences));

  BandTile<Shape> work(reinterpret_cast<T*>(dynamic_shared), static_cast<int>(p.pattern.window),
                       p.scale);
  // ring: where the rows of keys and values go.
  const auto load_keys = [&](const TileRange& tile, int64_t first, auto rows, int ring) {
    const auto to = [&](T* memory) {
      return [=](int r) {
        const int at = ring + r;
        return memory + (at < kBandRing ? at : at - kBandRing) * Shape::kWidth;
      };
    };
    work.template load<rows.value>({p.k, tile.range, k_head, true}, first, tile.last,
                                   to(work.keys()));
    work.template load<rows.value>({p.v, tile.range, k_head, true}, first, tile.last,
                                   to(work.values()));
  };
  using Window = std::integral_constant<int, kBandWindow>;
  using Whole = std::integral_constant<int, kBandTokens>;
  const auto load_tile = [&](const TileRange& tile, int buffer, int ring) {
    if (tile.first >= tile.last) return;
    work.template load<kBandTokens>(
        {p.q, tile.range, q_head, true}, tile.first, tile.last,
        [&](int r) { return work.queries(buffer) + r * Shape::kWidth; });
    load_keys(tile, tile.first, Whole{}, ring);
  };

  TileRange tile = find_tile(p.sequences, tiling, row, begin);
  int ring = 0, buffer = 0;  // of the window before the tile
  if (tile.first > 0) load_keys(tile, tile.first - kBandWindow, Window{}, 0);
  load_tile(tile, 0, kBandWindow);
  device::commit_copies();
  for (int64_t place = begin; place < end; ++place) {
    device::wait_for_copies<0>();
    __syncthreads();
    TileRange next = {};
    const int following = (ring + kBandTokens) % kBandRing;
    if (place + 1 < end) {
      next = find_tile(p.sequences, tiling, row, place + 1);
      load_tile(next, buffer ^ 1, (following + kBandWindow) % kBandRing);
    }
    device::commit_copies();
    if (tile.first < tile.last) {
      work.compute(tile, buffer, ring);
      float* const lse = p.lse ? p.lse.at<float>(row, q_head, tile.range.begin) : nullptr;
      work.store(tile, buffer, RowsView<T>(p.o, tile.range, q_head, true), lse, p.lse.stride[2]);
    }
    tile = next;
    ring = following;
    buffer ^= 1;
  }
}

}  // namespace hax::sparse_attention
