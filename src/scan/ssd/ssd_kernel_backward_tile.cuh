// The gradients of a tile of tokens, unit after unit of a group. With h the state before the tile, dh the gradient of
// the one behind it, g the gradient of y before the gate and decay(t, s) that from token s to token t:
//   mix[t, s] = (C_t . B_s) decay(t, s) dt_s,  dmix = g x^T,  dscores = dmix decay dt, summed over units
//   dx = mix^T g + dt decay(end, s) B dh^T
//   dC = dscores B + decay(t, start) g h,  dB = dscores^T C + dt decay(end, s) x dh
// The chunk's first tile has h and lacks dh, the second has dh and lacks h. What is missing is made here, from the
// chunk's other tile and the state at the chunk's other end.
#pragma once

#include "scan/ssd/ssd_kernel_backward.cuh"

namespace hax::ssd {

inline constexpr int kTileThreads = 256;
inline constexpr int kTileWarps = kTileThreads / device::kWarp;

// How the warps share out a product of kRows x kColumns.
template <int kRows_, int kColumns_, int kAcross_, int kDown_>
struct WarpGrid {
  static constexpr int kAcross = kAcross_, kWarps = kAcross_ * kDown_;
  static constexpr int kRows = kRows_ / kDown_, kColumns = kColumns_ / kAcross_;
  using Tile = device::WarpTile<kRows, kColumns>;
  static __device__ int row(int warp) { return warp / kAcross * kRows; }
  static __device__ int column(int warp) { return warp % kAcross * kColumns; }
};

HAX_EVERYWHERE constexpr int at_most(int a, int b) { return a < b ? a : b; }

template <class S>
struct TileGrids {
  static constexpr int kDown = S::kTokens / 16;
  // Tokens x tokens; tokens x width.
  using Mix = WarpGrid<S::kTokens, S::kTokens, at_most(kTileWarps / kDown, S::kTokens / 16), kDown>;
  using Width = WarpGrid<S::kTokens, S::kWidth, at_most(kTileWarps / kDown, S::kWidth / 16), kDown>;
  // Tokens x states: half of the warps have dC, the others dB.
  static constexpr int kStatesDown = S::kStates >= 128 ? 1 : kDown;
  using States = WarpGrid<S::kTokens, S::kStates, kTileWarps / 2 / kStatesDown, kStatesDown>;
  // Width x states.
  static constexpr int kStateDown = S::kWidth >= 64 ? 2 : 1;
  using State = WarpGrid<S::kWidth, S::kStates, at_most(kTileWarps / kStateDown, S::kStates / 16),
                         kStateDown>;
};

template <class S>
struct TileShared {
  using T = typename S::T;
  using G = TileGrids<S>;
  static constexpr int kStepRows = S::kExact ? 3 : 2;  // dt; cumulated exponents, their rest
  struct Stage {
    T x[S::kTokens * S::kWidthRow], g[S::kTokens * S::kWidthRow];
    T other[S::kTokens * S::kWidthRow];  // x or g of the other tile
    T h[S::kWidth * S::kStateRow], dh[S::kWidth * S::kStateRow];
    float steps[kStepRows * S::kChunk];
  } stages[S::kStages];
  T B[S::kTokens * S::kStateRow], C[S::kTokens * S::kStateRow];
  T other[S::kTokens * S::kStateRow];  // B or C of the other tile
  T mix[S::kTokens * S::kTokenRow];
  T other_weights[S::kTokens];
  device::Weight<T> from_start[S::kTokens], to_end[S::kTokens];  // the latter with dt
  float from_start_fp32[S::kTokens], to_end_fp32[S::kTokens];    // without dt
  float dt[S::kTokens];
  // Contributions to y . g by pairs of tokens: sums over earlier, over later ones (without dt), the token with itself.
  float row[G::Mix::kAcross][S::kTokens], column[G::Mix::kWarps / G::Mix::kAcross][S::kTokens];
  float own[S::kTokens];
  float from_h[G::States::kAcross][S::kTokens];  // C . dC of units so far
  float from_h_before[S::kTokens];
  float from_dh[G::Width::kAcross][S::kTokens];  // x . dx through dh, without dt
  float through[kTileWarps];                     // h . dh
  float pairs[S::kExact ? S::kTokens * (S::kTokens + 1) : 1];
};

// Sums over the lanes that have the same columns of a fragment.
template <int Count>
__device__ void sum_over_rows(float (&values)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) {
#pragma unroll
    for (int distance = 4; distance < device::kWarp; distance *= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], distance);
    }
  }
}

template <class S>
class GradientTile {
  using T = typename S::T;
  using G = TileGrids<S>;
  using Shared = TileShared<S>;
  static constexpr int Q = S::kTokens;

 public:
  __device__ GradientTile(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                          const BackwardAccess& access, const ChunkAt& chunk, bool second,
                          int64_t group)
      : shared_(shared),
        p_(p),
        plan_(plan),
        access_(access),
        chunk_(chunk),
        second_(second),
        group_(group),
        tokens_(chunk.tokens - (second ? Q : 0)) {}

  __device__ void run(int64_t first, int64_t last) {
    fetch_group();
    fetch_unit(first, shared_.stages[0]);
    device::commit_copies();
    states_.clear();
    dscores_.clear();
    if (threadIdx.x < Q) shared_.from_h_before[threadIdx.x] = 0.0f;
    device::wait_for_copies<0>();
    __syncthreads();
    scores_.clear();
    if (warp_ < G::Mix::kWarps) {
      scores_.add_product(device::factor(shared_.C, S::kStateRow), G::Mix::row(warp_),
                          device::transposed(shared_.B, S::kStateRow), G::Mix::column(warp_), 0,
                          S::kStates);
    }
    for (int64_t unit = first; unit < last; ++unit) {
      const int stage = static_cast<int>((unit - first) % S::kStages);
      device::wait_for_copies<0>();
      __syncthreads();
      if (S::kStages > 1 && unit + 1 < last) {
        fetch_unit(unit + 1, shared_.stages[(stage + 1) % S::kStages]);
        device::commit_copies();
      }
      handle(Unit(p_, plan_.slices, S::kWidth, unit), shared_.stages[stage]);
      if (S::kStages == 1 && unit + 1 < last) {
        fetch_unit(unit + 1, shared_.stages[0]);
        device::commit_copies();
      }
    }
    add_scores_gradient();
  }

  // Leaves or writes dB and dC.
  __device__ void store(int64_t share) {
    const bool of_B = warp_ >= kTileWarps / 2;
    const int warp = warp_ % (kTileWarps / 2);
    const Tensor& to = of_B ? p_.dB : p_.dC;
    if (!to) return;
    const int64_t row = chunk_.sequence.row;
    states_.for_each([&](float value, int t, int n) {
      t += G::States::row(warp);
      n += G::States::column(warp);
      if (t >= tokens_ || n >= p_.states) return;
      if (plan_.gradients) {
        const int64_t place = ((share * p_.batch + row) * p_.length + token() + t) * p_.groups;
        plan_.gradients[((place + group_) * 2 + !of_B) * p_.states + n] = value;
      } else {
        *to.at<T>(row, token() + t, group_, n) = device::from_float<T>(value);
      }
    });
  }

 private:
  using Stage = typename Shared::Stage;

  __device__ int64_t token() const { return chunk_.token() + (second_ ? Q : 0); }
  __device__ int64_t other_token() const { return chunk_.token() + (second_ ? 0 : Q); }
  __device__ int other_tokens() const { return second_ ? Q : chunk_.tokens - Q; }

  __device__ void fetch_rows(T* to, const Tensor& from, bool vectors, int64_t token, int tokens) {
    fetch<kTileThreads, Q, S::kStates, S::kStateRow>(
        to, token_rows<T>(from, vectors, chunk_.sequence.row, token, at_most(tokens, Q), group_, 0,
                          static_cast<int>(p_.states)));
  }
  __device__ void fetch_x(T* to, const Unit& unit, int64_t token, int tokens) {
    fetch<kTileThreads, Q, S::kWidth, S::kWidthRow>(
        to, token_rows<T>(p_.x, access_.x, chunk_.sequence.row, token, at_most(tokens, Q),
                          unit.head, unit.first, unit.width));
  }
  __device__ void fetch_g(T* to, const Unit& unit, int64_t token, int tokens) {
    fetch_output_gradient<S, kTileThreads>(to, p_, access_, chunk_.sequence.row, token,
                                           at_most(tokens, Q), unit);
  }

  // What all units share.
  __device__ void fetch_group() {
    fetch_rows(shared_.B, p_.B, access_.B, token(), tokens_);
    fetch_rows(shared_.C, p_.C, access_.C, token(), tokens_);
    fetch_rows(shared_.other, second_ ? p_.B : p_.C, second_ ? access_.B : access_.C, other_token(),
               other_tokens());
  }

  __device__ void fetch_unit(int64_t index, Stage& stage) {
    const Unit unit(p_, plan_.slices, S::kWidth, index);
    fetch_x(stage.x, unit, token(), tokens_);
    fetch_g(stage.g, unit, token(), tokens_);
    if (second_) {
      fetch_x(stage.other, unit, other_token(), other_tokens());
    } else {
      fetch_g(stage.other, unit, other_token(), other_tokens());
    }
    const int64_t units = plan_.units(p_.heads);
    const T* const states = static_cast<const T*>(plan_.states);
    const int64_t at = chunk_.place * units + index;
    fetch_compact<kTileThreads, S::kWidth, S::kStates, S::kStateRow>(stage.h,
                                                                     states + at * S::kStateSize);
    fetch_compact<kTileThreads, S::kWidth, S::kStates, S::kStateRow>(
        stage.dh, states + (plan_.chunks.count * units + at) * S::kStateSize);
    fetch_bytes<kTileThreads>(stage.steps,
                              plan_.steps + (chunk_.place * p_.heads + unit.head) * 3 * S::kChunk,
                              sizeof(stage.steps));
  }

  __device__ void handle(const Unit& unit, Stage& stage) {
    weigh(stage);
    __syncthreads();
    make_state(stage);
    gradients_of_mix(stage);
    __syncthreads();
    gradients_through_states(stage);
    gradient_of_x(unit, stage);
    if (p_.dz) gradient_of_gate(unit, stage);
    if (p_.dD) gradient_of_skip(unit, stage);
    __syncthreads();
    if (warp_ == 0) gradients_of_steps(unit);
  }

  // Exponent from the chunk's start to behind token t of the chunk, less that to behind token s; s = -1: the start.
  static __device__ float exponent(const Stage& stage, int t, int s) {
    const float* const high = stage.steps + S::kChunk;
    float difference = high[t] - (s < 0 ? 0.0f : high[s]);
    if constexpr (S::kExact) {
      const float* const low = high + S::kChunk;
      difference += low[t] - (s < 0 ? 0.0f : low[s]);
    }
    return difference;
  }

  __device__ void weigh(const Stage& stage) {
    const int t = threadIdx.x % Q;
    const int base = second_ ? Q : 0;
    if (threadIdx.x < Q) {
      const float from_start = device::exp2_approx(exponent(stage, base + t, base - 1));
      const float to_end = device::exp2_approx(exponent(stage, base + Q - 1, base + t));
      const float dt = stage.steps[base + t];
      shared_.dt[t] = dt;
      shared_.from_start_fp32[t] = from_start;
      shared_.to_end_fp32[t] = to_end;
      shared_.from_start[t] = device::make_weight<T>(from_start);
      shared_.to_end[t] = device::make_weight<T>(to_end * dt);
    } else if (threadIdx.x < 2 * Q) {
      const float weight = second_ ? device::exp2_approx(exponent(stage, Q - 1, t)) * stage.steps[t]
                                   : device::exp2_approx(exponent(stage, Q + t, Q - 1));
      shared_.other_weights[t] = device::from_float<T>(weight);
    }
  }

  // dh of the first tile, h of the second, in the place of what the chunk has.
  __device__ void make_state(Stage& stage) {
    float through = 0.0f;
    if (warp_ < G::State::kWarps) {
      T* const made = second_ ? stage.h : stage.dh;
      const T* const given = second_ ? stage.dh : stage.h;
      const float decay = device::exp2_approx(second_ ? exponent(stage, Q - 1, -1)
                                                      : exponent(stage, S::kChunk - 1, Q - 1));
      const int row = G::State::row(warp_), column = G::State::column(warp_);
      typename G::State::Tile state;
      state.for_each_pair([&](float& a, float& b, int p, int n) {
        const T* const at = made + (row + p) * S::kStateRow + column + n;
        a = decay * device::to_float(at[0]);
        b = decay * device::to_float(at[1]);
      });
      state.add_product(device::transposed(stage.other, S::kWidthRow), row,
                        device::factor(shared_.other, S::kStateRow), column, 0, Q,
                        [&](device::LeftFragment<T>& a, int, int k) {
                          device::scale_columns(a, shared_.other_weights + k, lane_);
                        });
      state.for_each_pair([&](float a, float b, int p, int n) {
        const int at = (row + p) * S::kStateRow + column + n;
        through += a * device::to_float(given[at]) + b * device::to_float(given[at + 1]);
        const float pair[] = {a, b};
        device::store_packed<T, 2>(made + at, pair);
      });
    }
    through = device::warp_sum(through);
    const int base = second_ ? Q : 0;
    if (lane_ == 0) {
      shared_.through[warp_] =
          through * device::exp2_approx(exponent(stage, base + Q - 1, base - 1));
    }
  }

  __device__ void gradients_of_mix(const Stage& stage) {
    using Tile = typename G::Mix::Tile;
    if (warp_ >= G::Mix::kWarps) return;
    const int row = G::Mix::row(warp_), column = G::Mix::column(warp_);
    const int base = second_ ? Q : 0;
    Tile dmix;
    dmix.clear();
    if (column <= row) {
      dmix.add_product(device::factor(stage.g, S::kWidthRow), row,
                       device::transposed(stage.x, S::kWidthRow), column, 0, S::kWidth);
    }
    const int r = lane_ / 4, c = lane_ % 4 * 2;
    float rows[2] = {}, columns[2 * Tile::kColumnBlocks] = {};
    const float* const high = stage.steps + S::kChunk + base;
    const float* const low = high + S::kChunk;  // only where kExact
#pragma unroll
    for (int j = 0; j < Tile::kColumnBlocks; ++j) {
      const int s = column + 8 * j + c;
      const float2 from = *reinterpret_cast<const float2*>(high + s);
      const float2 step = *reinterpret_cast<const float2*>(shared_.dt + s);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = row + r + 8 * half;
        float mixed[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float dt = e ? step.y : step.x;
          float difference = high[t] - (e ? from.y : from.x);
          if constexpr (S::kExact) difference += low[t] - low[s + e];
          const float decay = s + e <= t ? device::exp2_approx(difference) : 0.0f;
          const float faded = scores_.values[0][j][2 * half + e] * decay;
          const float dm = dmix.values[0][j][2 * half + e];
          const float share = s + e <= t ? dm * faded : 0.0f;
          mixed[e] = s + e <= t ? faded * dt : 0.0f;
          dscores_.values[0][j][2 * half + e] += dm * decay * dt;
          if (s + e == t) {
            shared_.own[t] = share;
            if constexpr (S::kExact) shared_.pairs[t * (Q + 1) + s + e] = 0.0f;
          } else {
            rows[half] += share * dt;
            columns[2 * j + e] += share;
            if constexpr (S::kExact) shared_.pairs[t * (Q + 1) + s + e] = share * dt;
          }
        }
        device::store_packed<T, 2>(shared_.mix + t * S::kTokenRow + s, mixed);
      }
    }
    sum_over_rows(columns);
    if (r == 0) {
#pragma unroll
      for (int i = 0; i < 2 * Tile::kColumnBlocks; ++i) {
        shared_.column[row / 16][column + i / 2 * 8 + c + i % 2] = columns[i];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = device::warp_sum<4>(rows[half]);
      if (c == 0) shared_.row[column / G::Mix::kColumns][row + r + 8 * half] = sum;
    }
  }

  // dB and dC through the states.
  __device__ void gradients_through_states(const Stage& stage) {
    const bool of_B = warp_ >= kTileWarps / 2;
    const int warp = warp_ % (kTileWarps / 2);
    const int row = G::States::row(warp), column = G::States::column(warp);
    const device::Weight<T>* const weights =
        (of_B ? shared_.to_end : shared_.from_start) + row + lane_ / 4;
    states_.add_product(device::factor(of_B ? stage.x : stage.g, S::kWidthRow), row,
                        device::factor(of_B ? stage.dh : stage.h, S::kStateRow), column, 0,
                        S::kWidth, [&](device::LeftFragment<T>& a, int i, int) {
                          device::scale_rows<T>(a, weights[16 * i], weights[16 * i + 8]);
                        });
    if (of_B) return;
    // What a unit adds to C . dC is what it adds to y . g through h.
    using Tile = typename G::States::Tile;
    float sums[Tile::kRowBlocks][2] = {};
    const int r = lane_ / 4;
    states_.for_each_pair([&](float a, float b, int t, int n) {
      const T* const C = shared_.C + (row + t) * S::kStateRow + column + n;
      sums[t / 16][(t % 16) / 8] += a * device::to_float(C[0]) + b * device::to_float(C[1]);
    });
#pragma unroll
    for (int i = 0; i < Tile::kRowBlocks; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float sum = device::warp_sum<4>(sums[i][half]);
        if (lane_ % 4 == 0) {
          shared_.from_h[column / G::States::kColumns][row + 16 * i + 8 * half + r] = sum;
        }
      }
    }
  }

  __device__ float skip(const Unit& unit, int p) const {
    if (!p_.D || p >= unit.width) return 0.0f;
    return p_.D.ndim == 2 ? *p_.D.at<float>(unit.head, unit.first + p) : *p_.D.at<float>(unit.head);
  }

  __device__ void gradient_of_x(const Unit& unit, const Stage& stage) {
    if (warp_ >= G::Width::kWarps) return;
    const int row = G::Width::row(warp_), column = G::Width::column(warp_);
    typename G::Width::Tile dx;
    dx.clear();
    dx.add_product(device::factor(shared_.B, S::kStateRow), row,
                   device::transposed(stage.dh, S::kStateRow), column, 0, S::kStates);
    float sums[2] = {};
    dx.for_each([&](float& value, int s, int p) {
      s += row;
      value *= shared_.to_end_fp32[s];
      sums[(s % 16) / 8] += value * device::to_float(stage.x[s * S::kWidthRow + column + p]);
      value *= shared_.dt[s];
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = device::warp_sum<4>(sums[half]);
      if (lane_ % 4 == 0) {
        shared_.from_dh[column / G::Width::kColumns][row + lane_ / 4 + 8 * half] = sum;
      }
    }
    if (!p_.dx) return;
    dx.add_product(device::transposed(shared_.mix, S::kTokenRow), row,
                   device::factor(stage.g, S::kWidthRow), column, row, Q);
    store_tile(p_.dx, access_.dx, dx, unit, row, column, [&](float value, int s, int p) {
      return value + skip(unit, p) * device::to_float(stage.g[s * S::kWidthRow + p]);
    });
  }

  __device__ void gradient_of_gate(const Unit& unit, const Stage& stage) {
    if (warp_ >= G::Width::kWarps) return;
    const int row = G::Width::row(warp_), column = G::Width::column(warp_);
    typename G::Width::Tile y;
    y.clear();
    y.add_product(device::factor(shared_.C, S::kStateRow), row,
                  device::transposed(stage.h, S::kStateRow), column, 0, S::kStates);
    y.for_each([&](float& value, int t, int) { value *= shared_.from_start_fp32[row + t]; });
    y.add_product(device::factor(shared_.mix, S::kTokenRow), row,
                  device::factor(stage.x, S::kWidthRow), column, 0, row + 16);
    const int64_t batch_row = chunk_.sequence.row;
    store_tile(p_.dz, false, y, unit, row, column, [&](float value, int t, int p) {
      if (t >= tokens_ || p >= unit.width) return 0.0f;
      const float dy = load_scalar(p_.dy.at<T>(batch_row, token() + t, unit.head, unit.first + p));
      const float z = load_scalar(p_.z.at<T>(batch_row, token() + t, unit.head, unit.first + p));
      const float with_skip =
          value + skip(unit, p) * device::to_float(stage.x[t * S::kWidthRow + p]);
      return dy * with_skip * device::silu_slope(z);
    });
  }

  // Writes finish(value, token of the tile, element of the unit).
  template <class Tile, class Finish>
  __device__ void store_tile(const Tensor& to, bool vectors, Tile& tile, const Unit& unit, int row,
                             int column, Finish&& finish) {
    T* const base = to.at<T>(chunk_.sequence.row, token(), unit.head, unit.first);
    const int64_t stride = to.stride[1], step = to.stride[3];
    tile.for_each_pair([&](float a, float b, int t, int p) {
      t += row;
      p += column;
      if (t >= tokens_ || p >= unit.width) return;
      const float pair[] = {finish(a, t, p), finish(b, t, p + 1)};
      T* const at = base + t * stride + p * step;
      if (vectors) {
        device::store_packed<T, 2>(at, pair);
      } else {
        at[0] = device::from_float<T>(pair[0]);
        if (p + 1 < unit.width) at[step] = device::from_float<T>(pair[1]);
      }
    });
  }

  __device__ void gradient_of_skip(const Unit& unit, const Stage& stage) {
    const int p = threadIdx.x;
    if (p >= S::kWidth) return;
    float sum = 0.0f;
    for (int t = 0; t < Q; ++t) {
      sum += device::to_float(stage.g[t * S::kWidthRow + p]) *
             device::to_float(stage.x[t * S::kWidthRow + p]);
    }
    plan_.dD[(tile() * plan_.units(p_.heads) + unit.index) * S::kWidth + p] = sum;
  }

  __device__ int64_t tile() const { return chunk_.place * 2 + second_; }

  // Of dt and A, by one warp: token i's exponent dt A is part of the decays between all s < i and t >= i.
  __device__ void gradients_of_steps(const Unit& unit) {
    constexpr int K = Q > device::kWarp ? Q / device::kWarp : 1;
    const bool used = lane_ * K < Q;
    float through = 0.0f;
#pragma unroll
    for (int i = 0; i < kTileWarps; ++i) through += shared_.through[i];
    float between[K] = {};
    if constexpr (S::kExact) {
      static_assert(K == 1);
      // No difference of sums: pairs[t][s] becomes its sum over later t.
      float carried = 0.0f;
      for (int t = Q - 1; t > lane_ && used; --t) {
        carried += shared_.pairs[t * (Q + 1) + lane_];
        shared_.pairs[t * (Q + 1) + lane_] = carried;
      }
      __syncwarp();
      for (int s = 0; s < lane_ && used; ++s) between[0] += shared_.pairs[lane_ * (Q + 1) + s];
    }
    float later[K], earlier[K], dt[K], direct[K];
#pragma unroll
    for (int i = 0; i < K; ++i) {
      const int t = used ? lane_ * K + i : 0;
      float row = 0.0f, column = 0.0f, from_h = 0.0f, from_dh = 0.0f;
#pragma unroll
      for (int j = 0; j < G::Mix::kAcross; ++j) row += shared_.row[j][t];
#pragma unroll
      for (int j = 0; j < G::Mix::kWarps / G::Mix::kAcross; ++j) column += shared_.column[j][t];
#pragma unroll
      for (int j = 0; j < G::States::kAcross; ++j) from_h += shared_.from_h[j][t];
#pragma unroll
      for (int j = 0; j < G::Width::kAcross; ++j) from_dh += shared_.from_dh[j][t];
      const float through_h = from_h - shared_.from_h_before[t];
      dt[i] = used ? shared_.dt[t] : 0.0f;
      direct[i] = column + shared_.own[t] + from_dh;
      later[i] = used ? through_h + (S::kExact ? 0.0f : row - dt[i] * column) : 0.0f;
      earlier[i] = used ? dt[i] * from_dh : 0.0f;
      __syncwarp();
      if (used) shared_.from_h_before[t] = from_h;
    }
    float all_later = 0.0f, all_earlier = 0.0f;
#pragma unroll
    for (int i = 0; i < K; ++i) {
      all_later += later[i];
      all_earlier += earlier[i];
    }
    float after = all_later, before = all_earlier;  // of lanes from this one on; up to it
#pragma unroll
    for (int distance = 1; distance < device::kWarp; distance *= 2) {
      const float next = __shfl_down_sync(0xffffffffu, after, distance);
      const float last = __shfl_up_sync(0xffffffffu, before, distance);
      if (lane_ + distance < device::kWarp) after += next;
      if (lane_ >= distance) before += last;
    }
    before -= all_earlier;
    const float A = *p_.A.at<float>(unit.head);
    const int64_t slice = unit.index % plan_.slices;
    float* const to =
        plan_.step_sums +
        ((slice * plan_.chunks.count + chunk_.place) * p_.heads + unit.head) * S::kChunk +
        (second_ ? Q : 0);
    float dA = 0.0f;
#pragma unroll
    for (int i = 0; i < K; ++i) {
      const float dexponent = after + before + between[i] + through;
      if (used) to[lane_ * K + i] = A * dexponent + direct[i];
      dA += dexponent * dt[i];
      after -= later[i];
      before += earlier[i];
    }
    dA = device::warp_sum(dA);
    if (lane_ == 0) plan_.dA[tile() * plan_.units(p_.heads) + unit.index] = dA;
  }

  // The units' dscores, summed, are multiplied by B and C once.
  __device__ void add_scores_gradient() {
    __syncthreads();
    if (warp_ < G::Mix::kWarps) {
      dscores_.for_each_pair([&](float a, float b, int t, int s) {
        const float pair[] = {a, b};
        device::store_packed<T, 2>(
            shared_.mix + (G::Mix::row(warp_) + t) * S::kTokenRow + G::Mix::column(warp_) + s,
            pair);
      });
    }
    __syncthreads();
    const bool of_B = warp_ >= kTileWarps / 2;
    const int warp = warp_ % (kTileWarps / 2);
    const int row = G::States::row(warp), column = G::States::column(warp);
    if (of_B) {
      states_.add_product(device::transposed(shared_.mix, S::kTokenRow), row,
                          device::factor(shared_.C, S::kStateRow), column, 0, Q);
    } else {
      states_.add_product(device::factor(shared_.mix, S::kTokenRow), row,
                          device::factor(shared_.B, S::kStateRow), column, 0, Q);
    }
  }

  Shared& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const ChunkAt& chunk_;
  const bool second_;
  const int64_t group_;
  const int tokens_;
  const int lane_ = threadIdx.x % device::kWarp;
  const int warp_ = threadIdx.x / device::kWarp;
  typename G::States::Tile states_;  // dC or dB
  typename G::Mix::Tile scores_, dscores_;
};

// A block for every (chunk, group, share, tile of the chunk), tiles fastest.
template <class S>
__global__ void __launch_bounds__(kTileThreads)
    backward_tile_kernel(const __grid_constant__ BackwardParams p,
                         const __grid_constant__ CudaBackwardPlan plan,
                         const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  const bool second = blockIdx.x % 2 != 0;
  const int64_t share = blockIdx.x / 2 % plan.shares;
  const int64_t group = blockIdx.x / 2 / plan.shares % p.groups;
  const ChunkAt chunk(p.sequences, plan.chunks, blockIdx.x / 2 / plan.shares / p.groups);
  const int64_t members = plan.units(p.heads) / p.groups;
  const int64_t first = group * members + members * share / plan.shares;
  const int64_t last = group * members + members * (share + 1) / plan.shares;
  if (chunk.tokens <= (second ? S::kTokens : 0)) {
    const int64_t at = (chunk.place * 2 + second) * plan.units(p.heads);
    for (int64_t i = first + threadIdx.x; i < last; i += kTileThreads) plan.dA[at + i] = 0.0f;
    if (!p.dD) return;
    for (int64_t i = first * S::kWidth + threadIdx.x; i < last * S::kWidth; i += kTileThreads) {
      plan.dD[at * S::kWidth + i] = 0.0f;
    }
    return;
  }
  GradientTile<S> tile(*reinterpret_cast<TileShared<S>*>(memory), p, plan, access, chunk, second,
                       group);
  tile.run(first, last);
  tile.store(share);
}

}  // namespace hax::ssd
