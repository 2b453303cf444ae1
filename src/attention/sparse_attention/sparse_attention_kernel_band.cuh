// Forward of a sliding window alone, up to kBandWindow keys long, in 16-bit types: a block goes along a strip of
// consecutive tiles of one head, whose keys, values and queries stream through shared memory. A tile's keys lie in its
// own slot and the one before, a warp's in five neighbouring blocks of 16: so all scores of a query are there at once.
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_mma.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_rows.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_softmax.cuh"

namespace hax::sparse_attention {

inline constexpr int kBandThreads = 128;
inline constexpr int kBandAhead = 2;                  // tiles whose copies are under way
inline constexpr int kBandKeySlots = kBandAhead + 2;  // ... the present one and the one before
inline constexpr int kBandQuerySlots = kBandAhead + 1;
inline constexpr int kBandKeys = kTileTokens + 16;  // that a warp's queries meet
static_assert(kBandWindow == kTileTokens);

template <class T, int kWidthQk_, int kWidthV_>
struct BandShape {
  using Type = T;
  static constexpr int kWidthQk = kWidthQk_, kWidthV = kWidthV_;
  static constexpr int kStrideQk = kWidthQk + kRowPadding<T>;
  static constexpr int kStrideV = kWidthV + kRowPadding<T>;
  // Outputs leave through the rows of the queries that they belong to.
  static constexpr int kStrideQ = kStrideQk > kStrideV ? kStrideQk : kStrideV;
  static constexpr int kSlotQ = kTileTokens * kStrideQ;
  static constexpr int kSlotK = kTileTokens * kStrideQk;
  static constexpr int kSlotV = kTileTokens * kStrideV;
  static constexpr size_t kSharedSize =
      sizeof(T) * (kBandQuerySlots * kSlotQ + kBandKeySlots * (kSlotK + kSlotV));
};

// Tiles of a row of the batch that one block goes along, and such strips of a row.
struct BandStrips {
  int64_t tiles, count;

  HAX_EVERYWHERE explicit BandStrips(const ForwardParams& p) {
    constexpr int64_t kBlocks = 132, kFewestTiles = 4;
    const int64_t places = Tiling{kTileTokens}.places(p.sequences);
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
  static constexpr int kRowsAtOnce = kBandThreads / kRowLanes;
  static constexpr int kScores = kBandKeys / 8;
  static constexpr int kBlocksV = Shape::kWidthV / 8;

  __device__ BandTile(T* memory, int window, float scale)
      : memory_(memory),
        window_(window),
        scale_(scale * device::kLog2E),
        lane_(static_cast<int>(threadIdx.x % 32)),
        warp_(static_cast<int>(threadIdx.x / 32)) {}

  __device__ T* queries(int slot) const { return memory_ + slot * Shape::kSlotQ; }
  __device__ T* keys(int slot) const {
    return memory_ + kBandQuerySlots * Shape::kSlotQ + slot * Shape::kSlotK;
  }
  __device__ T* values(int slot) const {
    return memory_ + kBandQuerySlots * Shape::kSlotQ + kBandKeySlots * Shape::kSlotK +
           slot * Shape::kSlotV;
  }

  // Begins to copy a tile's rows, with zeros behind its last token.
  template <int kWidth>
  __device__ __forceinline__ void load(T* to, int stride, const RowsView<T>& from,
                                       const TileRange& tile) const {
    const int row = static_cast<int>(threadIdx.x) / kRowLanes, lane = lane_ % kRowLanes;
    const auto first = static_cast<int32_t>(tile.first);
    const auto count = static_cast<int32_t>(tile.last - tile.first);
#pragma unroll
    for (int r = 0; r < kTileTokens; r += kRowsAtOnce) {
      const int32_t token = r + row < count ? first + r + row : -1;
      copy_vectors<kWidth>(to + (r + row) * stride, from, token, lane);
    }
  }

  // Outputs of this warp's 16 queries; `before` is the slot of the tile before, `own` that of the present one.
  __device__ __forceinline__ void compute(const TileRange& tile, int query_slot, int before,
                                          int own) {
    const T* const q = queries(query_slot) + warp_ * 16 * Shape::kStrideQ;
    float s[kScores][4] = {};
    const T* const a_row = q + lane_ % 16 * Shape::kStrideQ + lane_ / 16 * 8;
    const int b_row = (lane_ % 8 + lane_ / 16 * 8) * Shape::kStrideQk + lane_ / 8 % 2 * 8;
    // Blocks of 16 keys, counted from the slot before; earlier ones are of no use.
    const auto ago = [&](int block) { return kTileTokens - block * 16; };
    const bool skips = tile.first == 0;
    const auto slot_row = [&](int block) {  // slot, and row in it
      const int at = warp_ + block;
      return int2{at < 4 ? before : own, at % 4 * 16};
    };
    const auto used = [&](int block) {
      return !(skips && warp_ + block < 4) && ago(block) - 15 < window_;
    };
#pragma unroll
    for (int c = 0; c < Shape::kWidthQk; c += 16) {
      uint32_t a[4];
      device::load_matrix_x4(a, a_row + c);
#pragma unroll
      for (int block = 0; block < kBandKeys / 16; ++block) {
        const int2 at = slot_row(block);
        uint32_t b[4];
        device::load_matrix_x4(b, keys(at.x) + at.y * Shape::kStrideQk + b_row + c);
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
        const int distance = kTileTokens - n * 8 + lane_ / 4 + e / 2 * 8 - lane_ % 4 * 2 - e % 2;
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
      for (int n = 0; n < kBlocksV; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[n][e] = 0.0f;
      }
#pragma unroll
      for (int block = 0; block < kBandKeys / 16; ++block) {
        if (!used(block)) continue;
        const int2 at = slot_row(block);
        const float p[2][4] = {
            {s[2 * block][0], s[2 * block][1], s[2 * block][2], s[2 * block][3]},
            {s[2 * block + 1][0], s[2 * block + 1][1], s[2 * block + 1][2], s[2 * block + 1][3]}};
        add(p, values(at.x) + at.y * Shape::kStrideV);
      }
    };
    add_values([&](const float(&p)[2][4], const T* rows) {
      Products::template outputs<Shape::kStrideV>(out_, p, rows, lane_);
    });
    // A value that isn't finite makes outputs NaN that have nothing to do with it.
    if (__any_sync(0xffffffffu, infinite())) {
      add_values([&](const float(&p)[2][4], const T* rows) {
        Products::template outputs_with_infinities<Shape::kStrideV>(out_, p, rows, lane_);
      });
    }
  }

  // By way of the rows of the warp's own queries.
  __device__ __forceinline__ void store(const TileRange& tile, int query_slot, const RowsView<T>& o,
                                        float* lse, int64_t lse_stride) const {
    T* const own = queries(query_slot) + warp_ * 16 * Shape::kStrideQ;
    const auto first = static_cast<int32_t>(tile.first) + warp_ * 16;
    const int count = static_cast<int>(tile.last - first);
    __syncwarp();
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int r = lane_ / 4 + row * 8;
      float factor = softmax_.empty(row) ? 0.0f : device::reciprocal_approx(softmax_.sum[row]);
      if (softmax_.undefined(row)) factor = NAN;
#pragma unroll
      for (int n = 0; n < kBlocksV; ++n) {
        *reinterpret_cast<uint32_t*>(own + r * Shape::kStrideQ + n * 8 + lane_ % 4 * 2) =
            pack_pair<T>(out_[n][2 * row] * factor, out_[n][2 * row + 1] * factor);
      }
      if (lse && lane_ % 4 == 0 && r < count) {
        const bool none = softmax_.empty(row) || softmax_.undefined(row);
        lse[(first + r) * lse_stride] = none ? -INFINITY : softmax_.log2_sum(row) * device::kLn2;
      }
    }
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 16; r += 4) {
      const int at = r + lane_ / 8;
      store_row(o, at < count ? first + at : -1, own + at * Shape::kStrideQ, lane_ % 8);
    }
  }

 private:
  __device__ bool infinite() const {
    float zeros[4] = {};
#pragma unroll
    for (int n = 0; n < kBlocksV; ++n) {
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
  float out_[kBlocksV][4];
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
  const Tiling tiling{kTileTokens};
  const int64_t begin = blockIdx.x / heads % count * strips.tiles;
  const int64_t end = min(begin + strips.tiles, tiling.places(p.sequences));
  const auto tile_at = [&](int64_t place) {
    return place < end ? find_tile(p.sequences, tiling, row, place) : TileRange{};
  };

  BandTile<Shape> work(reinterpret_cast<T*>(dynamic_shared), static_cast<int>(p.pattern.window),
                       p.scale);
  const auto load_keys = [&](const TileRange& tile, int slot) {
    const RowsView<T> k(p.k, tile.range, k_head, true), v(p.v, tile.range, k_head, true);
    work.template load<Shape::kWidthQk>(work.keys(slot), Shape::kStrideQk, k, tile);
    work.template load<Shape::kWidthV>(work.values(slot), Shape::kStrideV, v, tile);
  };
  const auto load_tile = [&](const TileRange& tile, int query_slot, int key_slot) {
    if (tile.first >= tile.last) return;
    const RowsView<T> q(p.q, tile.range, q_head, true);
    work.template load<Shape::kWidthQk>(work.queries(query_slot), Shape::kStrideQ, q, tile);
    load_keys(tile, key_slot);
  };

  TileRange tiles[kBandAhead + 1];
  for (int i = 0; i <= kBandAhead; ++i) tiles[i] = tile_at(begin + i);
  if (tiles[0].first > 0) {
    TileRange before = tiles[0];
    before.last = before.first;
    before.first -= kTileTokens;
    load_keys(before, kBandKeySlots - 1);
  }
#pragma unroll
  for (int i = 0; i < kBandAhead; ++i) {
    load_tile(tiles[i], i, i);
    device::commit_copies();
  }
  int query_slot = 0, key_slot = 0;
  for (int64_t place = begin; place < end; ++place) {
    device::wait_for_copies<kBandAhead - 1>();
    __syncthreads();
    load_tile(tiles[kBandAhead], (query_slot + kBandAhead) % kBandQuerySlots,
              (key_slot + kBandAhead) % kBandKeySlots);
    device::commit_copies();
    const TileRange tile = tiles[0];
    if (tile.first < tile.last) {
      work.compute(tile, query_slot, (key_slot + kBandKeySlots - 1) % kBandKeySlots, key_slot);
      float* const lse = p.lse ? p.lse.at<float>(row, q_head, tile.range.begin) : nullptr;
      work.store(tile, query_slot, RowsView<T>(p.o, tile.range, q_head, true), lse,
                 p.lse.stride[2]);
    }
    query_slot = (query_slot + 1) % kBandQuerySlots;
    key_slot = (key_slot + 1) % kBandKeySlots;
#pragma unroll
    for (int i = 0; i < kBandAhead; ++i) tiles[i] = tiles[i + 1];
    tiles[kBandAhead] = tile_at(place + kBandAhead + 1);
  }
}

}  // namespace hax::sparse_attention
