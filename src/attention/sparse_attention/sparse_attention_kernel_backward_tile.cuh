// Backward's tile engine. A block keeps the rows of some queries (or keys) and streams tiles of the other side past
// them. With S = A1 B1^T and dP = A2 B2^T it takes P = exp(scale S - lse) and dS = P (dP - delta) in registers,
// where the results lie as the next products' left operands: out1 += dS B1 and, for keys, out2 += P B2.
//   keys stay:    A1 = k, A2 = v, B1 = q, B2 = d_o, out1 = dk, out2 = dv
//   queries stay: A1 = q, A2 = d_o, B1 = k, B2 = v, out1 = dq
#pragma once

#include "attention/sparse_attention/sparse_attention_kernel_backward_memory.cuh"
#include "device/math.cuh"
#include "device/tile_operands.cuh"

namespace hax::sparse_attention {

// kQk, kV: widths that rows are padded to. A warp owns 16 of the rows that stay and one of kColumnWarps shares of
// the results' columns.
template <class T_, int kQk_, int kV_, int kRowWarps_, int kColumnWarps_, int kStreamed_,
          int kKeysBlocks_, int kQueriesBlocks_, int kTiles_ = 2>
struct BackwardShape {
  using T = T_;
  static constexpr int kQk = kQk_, kV = kV_;
  static constexpr int kRowWarps = kRowWarps_, kColumnWarps = kColumnWarps_;
  static constexpr int kStay = 16 * kRowWarps;  // rows that stay
  static constexpr int kStreamed = kStreamed_;  // rows of a streamed tile
  static constexpr int kKeysBlocks = kKeysBlocks_, kQueriesBlocks = kQueriesBlocks_;  // on an SM
  // Streamed tiles in shared memory: with two, one is on its way while the other is worked on.
  static constexpr int kTiles = kTiles_;
  static constexpr int kThreads = 32 * kRowWarps * kColumnWarps;
  static constexpr int kMarks = kStay > kStreamed ? kStay : kStreamed;
  // The warps that share rows take a piece of the streamed rows each and exchange P and dS through shared memory; where
  // pieces would be too small, each of them works out all.
  static constexpr bool kExchange = kColumnWarps > 1 && kStreamed >= 16 * kColumnWarps;
  static constexpr int kPiece = kExchange ? kStreamed / kColumnWarps : kStreamed;
  static constexpr int kWeightStride = kStreamed + 8;
  // Rows in shared memory start 16 bytes apart modulo 128, so that eight of them fill the banks.
  static constexpr int kPad = 8;
  static constexpr int kStride1 = kQk + kPad, kStride2 = kV + kPad;
};

template <class S>
struct BackwardShared {
  using T = typename S::T;
  // The tiles' order and nearness matter to BackwardTile::stage.
  alignas(16) T a1[S::kStay * S::kStride1];
  alignas(16) T a2[S::kStay * S::kStride2];
  alignas(16) T b1[S::kTiles][S::kStreamed * S::kStride1];
  alignas(16) T b2[S::kTiles][S::kStreamed * S::kStride2];
  // Those that stay use the first.
  alignas(16) QueryMarks<S::kMarks> queries[2];
  alignas(16) KeyMarks<S::kMarks> keys[2];
  // P and dS, and whether a warp's piece has any pairs.
  static constexpr int kWeights = S::kExchange ? S::kStay * S::kWeightStride : 8;
  alignas(16) T p[kWeights];
  alignas(16) T ds[kWeights];
  bool any[S::kThreads / 32];
  int32_t least, greatest;  // of what the block's threads agree on
};

// What a step needs beside the tiles.
struct StepOptions {
  PairRule rule;
  float scale_log2;  // scale / log 2
  bool want1, want2;
  // Slower, and right where some row holds NaN or infinity: such a row then reaches those that it is paired with
  // and no others.
  bool careful;
};

template <class S, bool kKeysStay>
class BackwardTile {
 public:
  using T = typename S::T;
  static constexpr int kSize = static_cast<int>(sizeof(T));
  static constexpr int kBlocks1 = S::kQk / 8 / S::kColumnWarps;  // 8 columns each
  static constexpr int kBlocks2 = kKeysStay ? S::kV / 8 / S::kColumnWarps : 0;

  __device__ explicit BackwardTile(BackwardShared<S>& shared)
      : shared_(shared),
        lane_(static_cast<int>(threadIdx.x % 32)),
        row_(static_cast<int>(threadIdx.x / 32) % S::kRowWarps * 16),
        share_(static_cast<int>(threadIdx.x / 32) / S::kRowWarps) {}

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < kBlocks1; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out1_[n][e] = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kBlocks2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out2_[n][e] = 0.0f;
    }
  }

  // Rows and marks of streamed tile `stage` lie in shared memory, as do the others. `reload` brings the streamed
  // rows back after careful mode has cleaned them.
  template <class Reload>
  __device__ void step(const StepOptions& o, int stage, Reload&& reload) {
    stage_ = stage;
    const int begin = S::kExchange ? share_ * S::kPiece : 0;
    Piece scores, products;
    bool any = __any_sync(0xffffffffu, mask(o, scores, begin)) || o.careful;
    if (!any && !S::kExchange) return;
    set_zero(products);
    if (any) {
      multiply_rows<S::kQk, S::kStride1>(scores, shared_.a1, shared_.b1[stage % S::kTiles], begin);
      if (o.want1) {
        multiply_rows<S::kV, S::kStride2>(products, shared_.a2, shared_.b2[stage % S::kTiles],
                                          begin);
      }
      weigh(o, scores, products, begin);
    } else {
      set_zero(scores);
    }
    if (o.careful) drop_others(o, scores, products, begin);
    if constexpr (S::kExchange) {
      put(shared_.p, scores, begin);
      put(shared_.ds, products, begin);
      if (lane_ == 0) shared_.any[threadIdx.x / 32] = any;
      wait_for_row_warps();
#pragma unroll
      for (int w = 0; w < S::kColumnWarps; ++w) {
        any |= shared_.any[row_ / 16 + w * S::kRowWarps];
      }
    }
    if (any && o.want1) {
      accumulate<kBlocks1, S::kStride1>(out1_, products, shared_.ds, shared_.b1[stage % S::kTiles]);
    }
    if constexpr (kKeysStay) {
      if (any && o.want2) {
        accumulate<kBlocks2, S::kStride2>(out2_, scores, shared_.p, shared_.b2[stage % S::kTiles]);
      }
    }
    if (o.careful) {
      __syncthreads();
      reload();
    }
  }

  // Whether all sums are finite, over the block.
  __device__ bool finite() const {
    float sum = 0.0f;  // of 0 * x: NaN if any x isn't finite
#pragma unroll
    for (int n = 0; n < kBlocks1; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum += 0.0f * out1_[n][e];
    }
#pragma unroll
    for (int n = 0; n < kBlocks2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum += 0.0f * out2_[n][e];
    }
    return __syncthreads_or(sum != sum) == 0;
  }

  // Puts a result, scaled, into shared memory in place of the tiles: kStay rows, kStride1 or kStride2 floats apart.
  // Writing it out from there takes little code, which counts where blocks are short.
  __device__ const float* stage1(float scale) { return stage<kBlocks1, S::kStride1>(out1_, scale); }
  __device__ const float* stage2(float scale) { return stage<kBlocks2, S::kStride2>(out2_, scale); }

 private:
  using Piece = float[S::kPiece / 8][4];

  // Calls f(n, e, counts): whether element e of block n is a pair that counts.
  template <class F>
  __device__ void each_counted(PairRule rule, int begin, F&& f) const {
    switch (rule) {
      case PairRule::own: return each_counted_by<PairRule::own>(begin, f);
      case PairRule::lsh: return each_counted_by<PairRule::lsh>(begin, f);
      case PairRule::own_not_lsh: return each_counted_by<PairRule::own_not_lsh>(begin, f);
      case PairRule::either: return each_counted_by<PairRule::either>(begin, f);
    }
  }

  template <PairRule rule, class F>
  __device__ void each_counted_by(int begin, F& f) const {
    const auto& k = shared_.keys[kKeysStay ? 0 : stage_];
    const auto& q = shared_.queries[kKeysStay ? stage_ : 0];
    const int row = row_ + lane_ / 4;
#pragma unroll
    for (int n = 0; n < S::kPiece / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = row + e / 2 * 8, c = begin + n * 8 + lane_ % 4 * 2 + e % 2;
        const int key = kKeysStay ? r : c, query = kKeysStay ? c : r;
        const auto distance = static_cast<uint32_t>(q.position[query] - k.position[key]);
        bool counts = distance < k.span[key];
        if constexpr (rule != PairRule::own) {
          // A key that isn't there has no rank; a query that isn't has no keys.
          const bool lsh = static_cast<uint32_t>(k.rank[key] - q.begin[query]) < q.count[query];
          const bool past = distance < 0x80000000u;
          if (rule == PairRule::lsh) counts = lsh && past;
          if (rule == PairRule::own_not_lsh) counts = counts && !lsh;
          if (rule == PairRule::either) counts = counts || (lsh && past);
        }
        f(n, e, counts);
      }
    }
  }

  // Where sums of scores begin: so that they become infinite, and weigh nothing, for pairs that don't count.
  __device__ bool mask(const StepOptions& o, Piece& scores, int begin) const {
    const float never = o.scale_log2 < 0.0f ? INFINITY : -INFINITY;
    bool any = false;
    each_counted(o.rule, begin, [&](int n, int e, bool counts) {
      scores[n][e] = counts ? 0.0f : never;
      any |= counts;
    });
    return any;
  }

  template <int kWidth, int kStride>
  __device__ void multiply_rows(Piece& sums, const T* a, const T* b, int begin) const {
    const uint32_t left_at =
        device::launder(device::shared_address(a) + row_ * kStride * kSize +
                        device::operand_offset<T, kStride, device::OperandFrom::a>(lane_));
    const uint32_t right_at =
        device::launder(device::shared_address(b) + begin * kStride * kSize +
                        device::operand_offset<T, kStride, device::OperandFrom::b>(lane_));
#pragma unroll
    for (int k = 0; k < kWidth; k += 16) {
      device::OperandA<T> left;
      device::load_a<kStride>(left, left_at + k * kSize);
#pragma unroll
      for (int n = 0; n < S::kPiece / 16; ++n) {
        device::OperandB<T> right[2];
        device::load_b<kStride>(right, right_at + (16 * n * kStride + k) * kSize);
        device::multiply(sums[2 * n], left, right[0]);
        device::multiply(sums[2 * n + 1], left, right[1]);
      }
    }
  }

  // scores become P, products dS.
  __device__ void weigh(const StepOptions& o, Piece& scores, Piece& products, int begin) const {
    const auto& q = shared_.queries[kKeysStay ? stage_ : 0];
#pragma unroll
    for (int n = 0; n < S::kPiece / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int query =
            kKeysStay ? begin + n * 8 + lane_ % 4 * 2 + e % 2 : row_ + lane_ / 4 + e / 2 * 8;
        scores[n][e] = exponential(scores[n][e] * o.scale_log2 - q.lse[query]);
        products[n][e] = scores[n][e] * (products[n][e] - q.delta[query]);
      }
    }
  }

  // Careful mode: pairs that don't count are 0 whatever their rows hold, and rows that aren't finite no longer reach
  // the sums but through P and dS.
  __device__ void drop_others(const StepOptions& o, Piece& scores, Piece& products, int begin) {
    each_counted(o.rule, begin, [&](int n, int e, bool counts) {
      if (products[n][e] != products[n][e]) scores[n][e] = products[n][e];
      scores[n][e] = counts ? scores[n][e] : 0.0f;
      products[n][e] = counts ? products[n][e] : 0.0f;
    });
    __syncthreads();
    clean_tile<S::kThreads, S::kStreamed, S::kQk, S::kStride1>(shared_.b1[stage_ % S::kTiles]);
    clean_tile<S::kThreads, S::kStreamed, S::kV, S::kStride2>(shared_.b2[stage_ % S::kTiles]);
    __syncthreads();
  }

  static __device__ float exponential(float x) {
    if constexpr (type_of<T> == Type::fp32) return exp2f(x);
    return device::exp2_approx(x);
  }

  static __device__ void add_product(float (&out)[4], const device::OperandA<T>& a,
                                     const device::OperandB<T>& b) {
    if constexpr (type_of<T> == Type::fp32) {
      // Tensor cores cut off what they add, which over thousands of queries would show.
      float product[4] = {};
      device::multiply(product, a, b);
#pragma unroll
      for (int e = 0; e < 4; ++e) out[e] += product[e];
    } else {
      device::multiply(out, a, b);
    }
  }

  static __device__ void set_zero(Piece& piece) {
#pragma unroll
    for (int n = 0; n < S::kPiece / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) piece[n][e] = 0.0f;
    }
  }

  __device__ void put(T* to, const Piece& piece, int begin) const {
    T* const at = to + (row_ + lane_ / 4) * S::kWeightStride + begin + lane_ % 4 * 2;
#pragma unroll
    for (int n = 0; n < S::kPiece / 8; ++n) {
      device::store_packed<T, 2>(at + 8 * n, {piece[n][0], piece[n][1]});
      device::store_packed<T, 2>(at + 8 * S::kWeightStride + 8 * n, {piece[n][2], piece[n][3]});
    }
  }

  // The warps that share this one's rows.
  __device__ void wait_for_row_warps() const {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + row_ / 16), "n"(32 * S::kColumnWarps) : "memory");
  }

  // out += left b over all streamed rows; left comes from shared memory if it was exchanged.
  template <int kBlocks, int kStride>
  __device__ void accumulate(float (&out)[kBlocks][4], const Piece& left, const T* exchanged,
                             const T* b) const {
    const uint32_t right_at = device::launder(
        device::shared_address(b) + share_ * kBlocks * 8 * kSize +
        device::operand_offset<T, kStride, device::OperandFrom::b_transposed>(lane_));
    const uint32_t left_at =
        device::launder(device::shared_address(exchanged) + row_ * S::kWeightStride * kSize +
                        device::operand_offset<T, S::kWeightStride, device::OperandFrom::a>(lane_));
#pragma unroll
    for (int k = 0; k < S::kStreamed / 16; ++k) {
      device::OperandA<T> a;
      if constexpr (S::kExchange) {
        device::load_a<S::kWeightStride>(a, left_at + 16 * k * kSize);
      } else {
        a = device::as_operand<T>(left[2 * k], left[2 * k + 1]);
      }
#pragma unroll
      for (int n = 0; n < kBlocks / 2; ++n) {
        device::OperandB<T> right[2];
        device::load_b_transposed<kStride>(right, right_at + (16 * k * kStride + 16 * n) * kSize);
        add_product(out[2 * n], a, right[0]);
        add_product(out[2 * n + 1], a, right[1]);
      }
    }
  }

  template <int kBlocks, int kStride, int kOuts>
  __device__ const float* stage(const float (&out)[kOuts][4], float scale) {
    // dq may only take the place of the rows that stay, whose successors are fetched afterwards.
    constexpr size_t kRoom = sizeof(shared_.a1) + sizeof(shared_.a2) +
                             (kKeysStay ? sizeof(shared_.b1) + sizeof(shared_.b2) : 0);
    static_assert(kRoom >= S::kStay * kStride * sizeof(float));
    auto* const to = reinterpret_cast<float*>(shared_.a1);
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
      float* const at =
          to + (row_ + lane_ / 4) * kStride + (share_ * kBlocks + n) * 8 + lane_ % 4 * 2;
      *reinterpret_cast<float2*>(at) = {out[n][0] * scale, out[n][1] * scale};
      *reinterpret_cast<float2*>(at + 8 * kStride) = {out[n][2] * scale, out[n][3] * scale};
    }
    __syncthreads();
    return to;
  }

  BackwardShared<S>& shared_;
  const int lane_, row_, share_;
  int stage_ = 0;
  float out1_[kBlocks1][4];
  float out2_[kBlocks2 > 0 ? kBlocks2 : 1][4];
};

}  // namespace hax::sparse_attention
