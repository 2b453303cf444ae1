// Backward of pairs of tiles, 64 queries and 64 keys, for activations of 16 bits: the tile that stays meets tiles that
// pass by, each of which is on its way to shared memory while the one before it is worked on. With S = q k^T and
// dP = d_o v^T, P = exp(scale S - lse) and dS = P (dP - delta) lie in registers as the left factors of what follows:
//   keys stay:    rows of S are keys; dk += dS q, dv += P d_o
//   queries stay: rows of S are queries; dq += dS k
#pragma once

#include <new>

#include "attention/sparse_attention/sparse_attention_kernel_backward_marks.cuh"
#include "attention/sparse_attention/sparse_attention_kernel_backward_panels.cuh"
#include "device/math.cuh"

namespace hax::sparse_attention {

// kQk, kV: widths that rows are padded to.
template <class T_, int kQk_, int kV_>
struct PairShape {
  using T = T_;
  static constexpr int kQk = kQk_, kV = kV_;
};

// A slot holds q and d_o, or k and v, of a tile.
template <class S>
struct PairShared {
  static constexpr int kFirst = kSwizzledBytes<S::kQk>, kSecond = kSwizzledBytes<S::kV>;
  alignas(1024) char slots[3][kFirst + kSecond];
  TileMarks marks[2];  // of those that pass
  alignas(16) char rows[sizeof(SequenceRows<typename S::T>)];
};

// What has become of the next tile: copies and marks are under way; or both have come already.
enum class Coming { nothing, marked, there };

template <class S, PairRule... kRules>
class PairTiles {
 public:
  using T = typename S::T;
  using Products = TileProducts<T>;

  struct KeySums {
    float dk[S::kQk / 8][4], dv[S::kV / 8][4];
  };
  using QuerySums = float[S::kQk / 8][4];

  __device__ PairTiles(PairShared<S>& shared, float scale, PairRule rule)
      : shared_(shared),
        slots_(device::shared_address(shared.slots)),
        scale_(scale * device::kLog2E),
        rule_(rule) {}

  // All threads call it before anything else.
  __device__ void set_rows(const BackwardParams& p, const BackwardLaunch& launch,
                           const Sequences::Range& range, int64_t head) const {
    if (threadIdx.x == 0) new (shared_.rows) SequenceRows<T>(p, launch, range, head);
    __syncthreads();
  }
  __device__ const SequenceRows<T>& rows() const {
    return *reinterpret_cast<const SequenceRows<T>*>(shared_.rows);
  }

  __device__ uint32_t first(int slot) const {
    return slots_ + slot * (PairShared<S>::kFirst + PairShared<S>::kSecond);
  }
  __device__ uint32_t second(int slot) const { return first(slot) + PairShared<S>::kFirst; }

  // Rows token(0) .. token(count - 1) of q and d_o, or k and v.
  template <class F>
  __device__ void load(int slot, const HeadRows<const T>& first_rows,
                       const HeadRows<const T>& second_rows, int count, F&& token) const {
    load_panels<S::kQk>(first(slot), first_rows, count, token);
    load_panels<S::kV>(second(slot), second_rows, count, token);
    device::commit_copies();
  }

  // Row of the results that the thread's first sums belong to; the others are 8 rows on.
  static __device__ int own_row() {
    return static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
  }

  // The first kTileRows threads have a mark each.
  __device__ void store(int stage, const TileMark& mark) const {
    const auto n = static_cast<int>(threadIdx.x);
    if (n >= kTileRows) return;
    TileMarks& marks = shared_.marks[stage];
    marks.position[n] = mark.position;
    marks.lookup[n] = mark.lookup;
    marks.extent[n] = mark.extent;
    marks.lse[n] = mark.lse;
    marks.delta[n] = mark.delta;
  }
  __device__ TileMark mark(int stage, int row) const {
    const TileMarks& marks = shared_.marks[stage];
    TileMark mark;
    mark.position = marks.position[row];
    mark.lookup = marks.lookup[row];
    mark.extent = marks.extent[row];
    mark.lse = marks.lse[row];
    mark.delta = marks.delta[row];
    return mark;
  }

  // Keys in slot 0 stay, queries pass through slots 1 and 2. The first step's copies and marks (stage 0) are under way;
  // next(slot, mark) begins those of another one, finish(mark) ends them. Returns the last step's stage.
  template <class Next, class Finish>
  __device__ int keep_keys(KeySums& sums, const TileMark (&own)[2], Next&& next,
                           Finish&& finish) const {
    return pass_queries<false>(sums, own, 0, next, finish, [](const QuerySums&) {});
  }
  // The same where no other keys meet the queries: give(sums) has those of each tile of them. slopes: a panel in shared
  // memory for dS, where rows and columns change places.
  template <class Next, class Finish, class Give>
  __device__ void keep_keys_and_give(KeySums& sums, const TileMark (&own)[2], uint32_t slopes,
                                     Next&& next, Finish&& finish, Give&& give) const {
    pass_queries<true>(sums, own, slopes, next, finish, give);
  }

  // Queries in slot `stay` stay, keys pass through slots `pass` and `other`, their marks first lie in `stage`.
  template <class Next, class Finish>
  __device__ void keep_queries(QuerySums& sums, const TileMark (&own)[2], int stay, int pass,
                               int other, int stage, Next&& next, Finish&& finish) const {
    clear(sums);
    for (;; stage ^= 1) {
      await_copies();
      RawMark mark;
      const Coming coming = next(other, mark);
      add_keys(sums, own, stay, pass, stage);
      if (coming == Coming::marked) store(stage ^ 1, finish(mark));
      if (coming == Coming::nothing) return;
      const int slot = pass;
      pass = other;
      other = slot;
    }
  }

  __device__ void add_keys(QuerySums& sums, const TileMark (&own)[2], int stay, int pass,
                           int stage) const {
    uint32_t weights[4][4], slopes[4][4];
    weigh<false>(stay, pass, stage, own, weights, slopes);
    Products::begin();
    Products::add_product(sums, slopes, first(pass));
    Products::end();
    Products::template wait<0>();
    Products::settle(sums);
  }

  // All copies have come and all threads' marks are there.
  static __device__ void await_copies() {
    device::wait_for_copies<0>();
    Products::publish();
    __syncthreads();
  }

  template <int kBlocks>
  static __device__ void clear(float (&sums)[kBlocks][4]) {
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[n][e] = 0.0f;
    }
  }

  // Whether all of the block's sums are.
  static __device__ bool finite(const KeySums& sums) {
    return __syncthreads_or(!own_finite(sums.dk) || !own_finite(sums.dv)) == 0;
  }
  static __device__ bool finite(const QuerySums& sums) {
    return __syncthreads_or(!own_finite(sums)) == 0;
  }
  // Whether the thread's are.
  template <int kBlocks>
  static __device__ bool own_finite(const float (&sums)[kBlocks][4]) {
    float zero = 0.0f;  // NaN if anything isn't finite
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) zero += 0.0f * sums[n][e];
    }
    return zero == 0.0f;
  }

 private:
  template <bool kGives, class Next, class Finish, class Give>
  __device__ int pass_queries(KeySums& sums, const TileMark (&own)[2], uint32_t exchanged,
                              Next&& next, Finish&& finish, Give&& give) const {
    clear(sums.dk);
    clear(sums.dv);
    for (int stage = 0;; stage ^= 1) {
      await_copies();
      RawMark mark;
      const Coming coming = next(2 - stage, mark);
      uint32_t weights[4][4], slopes[4][4];
      weigh<true>(0, 1 + stage, stage, own, weights, slopes);
      Products::begin();
      Products::add_product(sums.dv, weights, second(1 + stage));
      Products::add_product(sums.dk, slopes, first(1 + stage));
      Products::end();
      QuerySums dq;
      if constexpr (kGives) {
        uint32_t columns[4][4];
        Products::store_factor(exchanged, slopes);
        __syncthreads();
        Products::load_transposed(columns, exchanged);
        clear(dq);
        Products::begin();
        Products::add_product(dq, columns, first(0));
        Products::end();
      }
      Products::template wait<0>();
      Products::settle(sums.dv);
      Products::settle(sums.dk);
      if constexpr (kGives) Products::settle(dq);
      if (coming == Coming::marked) store(stage ^ 1, finish(mark));
      give(dq);
      if (coming == Coming::nothing) return stage;
    }
  }

  // P and dS of the tiles in two slots, as left factors.
  template <bool kKeysStay>
  __device__ void weigh(int stay, int pass, int stage, const TileMark (&own)[2],
                        uint32_t (&weights)[4][4], uint32_t (&slopes)[4][4]) const {
    Pairs scores, products;
    Products::begin();
    Products::template multiply_rows<S::kQk>(scores, first(stay), first(pass));
    Products::end();
    Products::template multiply_rows<S::kV>(products, second(stay), second(pass));
    Products::end();
    Products::template wait<1>();
    Products::settle(scores);
    ((rule_ == kRules ? weigh_scores<kKeysStay, kRules>(scores, stage, own) : void()), ...);
    Products::template wait<0>();
    Products::settle(products);
    const TileMarks& marks = shared_.marks[stage];
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 deltas = *reinterpret_cast<const float2*>(marks.delta + n * 8 + column);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float delta = kKeysStay ? (e % 2 ? deltas.y : deltas.x) : own[e / 2].delta;
        products[n][e] = scores[n][e] * (products[n][e] - delta);
      }
    }
    if constexpr (kKeysStay) Products::pack(weights, scores);
    Products::pack(slopes, products);
  }

  // Scores become P; pairs that don't count become 0.
  template <bool kKeysStay, PairRule rule>
  __device__ void weigh_scores(Pairs& scores, int stage, const TileMark (&own)[2]) const {
    const TileMarks& marks = shared_.marks[stage];
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int at = n * 8 + column;
      const int2 positions = *reinterpret_cast<const int2*>(marks.position + at);
      const int2 lookups = *reinterpret_cast<const int2*>(marks.lookup + at);
      const uint2 extents = *reinterpret_cast<const uint2*>(marks.extent + at);
      const float2 lses = *reinterpret_cast<const float2*>(marks.lse + at);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const TileMark& mine = own[e / 2];
        const int position = e % 2 ? positions.y : positions.x;
        const int lookup = e % 2 ? lookups.y : lookups.x;
        const uint32_t extent = e % 2 ? extents.y : extents.x;
        const float lse = kKeysStay ? (e % 2 ? lses.y : lses.x) : mine.lse;
        const auto distance =
            static_cast<uint32_t>(kKeysStay ? position - mine.position : mine.position - position);
        bool counts = distance < (kKeysStay ? mine.extent : extent);
        if constexpr (rule != PairRule::own) {
          const int rank = kKeysStay ? mine.lookup : lookup;
          const int begin = kKeysStay ? lookup : mine.lookup;
          const uint32_t length = kKeysStay ? extent : mine.extent;
          // In this form a comparison takes in the result of the one before.
          const auto place = static_cast<uint32_t>(rank - begin);
          const bool past = static_cast<int32_t>(distance) >= 0;
          if (rule == PairRule::lsh) counts = place < length && past;
          if (rule == PairRule::own_not_lsh) counts = counts && !(place < length);
          if (rule == PairRule::either) counts = counts || (place < length && past);
        }
        const float weight = device::exp2_approx(scores[n][e] * scale_ - lse);
        scores[n][e] = counts ? weight : 0.0f;
      }
    }
  }

  PairShared<S>& shared_;
  const uint32_t slots_;
  const float scale_;
  const PairRule rule_;
};

}  // namespace hax::sparse_attention
