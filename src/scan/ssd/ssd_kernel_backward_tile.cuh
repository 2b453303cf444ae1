// The gradients of a tile of tokens, unit after unit of a group. With h the state before the tile, dh the gradient of
// the one behind it, g the gradient of y before the gate and decay(t, s) that from token s to token t:
//   mix[t, s] = (C_t . B_s) decay(t, s) dt_s,  dmix = g x^T,  dscores = dmix decay dt, summed over units
//   dx = mix^T g + dt decay(end, s) B dh^T
//   dC = dscores B + decay(t, start) g h,  dB = dscores^T C + dt decay(end, s) x dh
// The chunk's first tile has h and lacks dh, the second has dh and lacks h. What is missing is made here, from the
// chunk's other tile and the state at the chunk's other end.
//
// Two barriers a unit: before the first phase (state, mix) and before the second (products of both). What hangs on
// sums over the warps waits for the next unit's first phase: the gradients of dt and A, the writing of dx.
#pragma once

#include "scan/ssd/ssd_kernel_backward_sums.cuh"

namespace hax::ssd {

template <class S>
class GradientTile {
  using T = typename S::T;
  using G = TileGrids<S>;
  using Shared = TileShared<S>;
  using Stage = typename Shared::Stage;
  static constexpr int Q = S::kTokens, kWarps = S::kTileWarps;
  static constexpr int kThreads = kWarps * device::kWarp;

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
    if (fetches()) {
      fetch_group();
      fetch_steps(first, 0);
      if (first + 1 < last) fetch_steps(first + 1, 1);
      fetch_unit(first, shared_.stages[0]);
    }
    device::commit_copies();
    states_.clear();
    dscores_.clear();
    scores_.clear();
    if (threadIdx.x < Q) shared_.from_h_before[threadIdx.x] = 0.0f;
    device::wait_for_copies<0>();
    __syncthreads();
    weigh(Unit(p_, plan_.slices, S::kWidth, first), 0);
    if (mixes()) {
      scores_.add_product(device::factor(shared_.C, S::kStateRow), mix_row_,
                          device::transposed(shared_.B, S::kStateRow), mix_column_, 0, S::kStates);
    }
    const int count = static_cast<int>(last - first);
    for (int i = 0; i < count; ++i) {
      Stage& stage = shared_.stages[i % S::kStages];
      device::wait_for_copies<0>();
      __syncthreads();
      if (fetches()) {
        if (S::kStages > 1 && i + 1 < count) {
          fetch_unit(first + i + 1, shared_.stages[(i + 1) % S::kStages]);
        }
        if (i + 2 < count) fetch_steps(first + i + 2, i + 2);
      }
      device::commit_copies();
      if (i > 0) finish(first + i - 1, i - 1);
      make_state(stage, i);
      if (mixes()) {
        if (mix_column_ + G::Mix::kColumns <= mix_row_) {
          gradients_of_mix<false>(stage, i);
        } else {
          gradients_of_mix<true>(stage, i);
        }
      }
      __syncthreads();
      const Unit unit(p_, plan_.slices, S::kWidth, first + i);
      gradients_through_states(stage, i);
      gradient_of_x(stage, i);
      if (p_.dz) gradient_of_gate(unit, stage, i);
      if (i + 1 < count) weigh(Unit(p_, plan_.slices, S::kWidth, first + i + 1), i + 1);
      if (S::kStages == 1 && i + 1 < count) {
        __syncthreads();
        if (fetches()) fetch_unit(first + i + 1, shared_.stages[0]);
        device::commit_copies();
      }
    }
    __syncthreads();
    finish(last - 1, count - 1);
    add_scores_gradient();
  }

  // Leaves or writes dB and dC.
  __device__ void store(int64_t share) {
    const Tensor& to = of_B_ ? p_.dB : p_.dC;
    if (!to) return;
    const int64_t row = chunk_.sequence.row;
    states_.for_each([&](float value, int t, int n) {
      t += state_row_;
      n += state_column_;
      if (t >= tokens_ || n >= p_.states) return;
      if (plan_.gradients) {
        const int64_t place = ((share * p_.batch + row) * p_.length + token() + t) * p_.groups;
        plan_.gradients[((place + group_) * 2 + !of_B_) * p_.states + n] = value;
      } else {
        *to.at<T>(row, token() + t, group_, n) = device::from_float<T>(value);
      }
    });
  }

 private:
  __device__ int64_t token() const { return chunk_.token() + (second_ ? Q : 0); }
  __device__ int64_t other_token() const { return chunk_.token() + (second_ ? 0 : Q); }
  __device__ int other_tokens() const { return second_ ? Q : chunk_.tokens - Q; }
  __device__ int64_t tile() const { return chunk_.place * 2 + second_; }

  __device__ bool fetches() const { return fetch_team_.thread >= 0; }

  __device__ void fetch_rows(T* to, const Tensor& from, bool vectors, int64_t token, int tokens) {
    fetch<Q, S::kStates, S::kStateRow>(
        fetch_team_, to,
        token_rows<T>(from, vectors, chunk_.sequence.row, token, at_most(tokens, Q), group_, 0,
                      static_cast<int>(p_.states)));
  }
  __device__ void fetch_x(T* to, const Unit& unit, int64_t token, int tokens) {
    fetch<Q, S::kWidth, S::kWidthRow>(
        fetch_team_, to,
        token_rows<T>(p_.x, access_.x, chunk_.sequence.row, token, at_most(tokens, Q), unit.head,
                      unit.first, unit.width));
  }
  __device__ void fetch_g(T* to, const Unit& unit, int64_t token, int tokens) {
    fetch_output_gradient<S>(fetch_team_, to, p_, access_, chunk_.sequence.row, token,
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
    fetch_compact<S::kWidth, S::kStates, S::kStateRow>(fetch_team_, stage.h,
                                                       states + at * S::kStateSize);
    fetch_compact<S::kWidth, S::kStates, S::kStateRow>(
        fetch_team_, stage.dh, states + (plan_.chunks.count * units + at) * S::kStateSize);
  }
  __device__ void fetch_steps(int64_t unit, int i) {
    const int64_t at = chunk_.place * p_.heads + Unit(p_, plan_.slices, S::kWidth, unit).head;
    fetch_bytes(fetch_team_, shared_.steps[i % 3], plan_.steps + at * 3 * S::kChunk,
                sizeof(shared_.steps[0]));
  }

  __device__ TileWeights<S>& weights(int i) { return shared_.weights[i % 2]; }
  __device__ TileSums<S>& sums(int i) { return shared_.sums[i % 2]; }

  // Exponent from the chunk's start to behind token t of the chunk, less that to behind token s; s = -1: the start.
  __device__ float exponent(int i, int t, int s) const {
    const float* const high = shared_.steps[i % 3] + S::kChunk;
    float difference = high[t] - (s < 0 ? 0.0f : high[s]);
    if constexpr (S::kExact) {
      const float* const low = high + S::kChunk;
      difference += low[t] - (s < 0 ? 0.0f : low[s]);
    }
    return difference;
  }

  __device__ void weigh(const Unit& unit, int i) {
    static_assert(kThreads >= 2 * Q + S::kWidth);
    TileWeights<S>& to = weights(i);
    const int t = threadIdx.x % Q;
    const int base = second_ ? Q : 0;
    const auto decay = [&](int end, int begin) {
      return device::exp2_approx(exponent(i, end, begin));
    };
    if (threadIdx.x < Q) {
      const float from_start = decay(base + t, base - 1);
      const float to_end = decay(base + Q - 1, base + t);
      const float dt = shared_.steps[i % 3][base + t];
      to.dt[t] = dt;
      to.from_start_fp32[t] = from_start;
      to.to_end_fp32[t] = to_end;
      to.from_start[t] = device::make_weight<T>(from_start);
      to.to_end[t] = device::make_weight<T>(to_end * dt);
      if (t == 0) {
        to.over_other = second_ ? decay(Q - 1, -1) : decay(S::kChunk - 1, Q - 1);
        to.over_tile = decay(base + Q - 1, base - 1);
      }
    } else if (threadIdx.x >= 2 * Q) {
      const int p = static_cast<int>(threadIdx.x) - 2 * Q;
      if (!p_.D || p >= unit.width) return;
      to.D[p] =
          p_.D.ndim == 2 ? *p_.D.at<float>(unit.head, unit.first + p) : *p_.D.at<float>(unit.head);
    } else {
      to.other[t] = device::from_float<T>(second_ ? decay(Q - 1, t) * shared_.steps[i % 3][t]
                                                  : decay(Q + t, Q - 1));
    }
  }

  // dh of the first tile, h of the second, in the place of what the chunk has.
  __device__ void make_state(Stage& stage, int i) {
    using Grid = typename G::State;
    float through = 0.0f;
    if (warp_ < Grid::kWarps) {
      const TileWeights<S>& weight = weights(i);
      const int row = Grid::row(warp_), column = Grid::column(warp_);
      T* const made = (second_ ? stage.h : stage.dh) + row * S::kStateRow + column;
      const T* const given = (second_ ? stage.dh : stage.h) + row * S::kStateRow + column;
      typename Grid::Tile state;
      state.for_each_pair([&](float& a, float& b, int p, int n) {
        float pair[2];
        load_pair(pair, made + p * S::kStateRow + n);
        a = weight.over_other * pair[0];
        b = weight.over_other * pair[1];
      });
      state.add_product(device::transposed(stage.other, S::kWidthRow), row,
                        device::factor(shared_.other, S::kStateRow), column, 0, Q,
                        [&](device::LeftFragment<T>& a, int, int k) {
                          device::scale_columns(a, weight.other + k, lane_);
                        });
      state.for_each_pair([&](float a, float b, int p, int n) {
        float pair[2];
        load_pair(pair, given + p * S::kStateRow + n);
        through += a * pair[0] + b * pair[1];
        const float kept[] = {a, b};
        device::store_packed<T, 2>(made + p * S::kStateRow + n, kept);
      });
      through *= weight.over_tile;
    }
    through = device::warp_sum(through);
    if (lane_ == 0) sums(i).through[warp_] = through;
  }

  __device__ bool mixes() const { return warp_ < G::Mix::kWarps && mix_column_ <= mix_row_; }

  // kDiagonal: some of the block's pairs are not causal.
  template <bool kDiagonal>
  __device__ void gradients_of_mix(const Stage& stage, int i) {
    using Tile = typename G::Mix::Tile;
    const TileWeights<S>& weight = weights(i);
    TileSums<S>& sum = sums(i);
    Tile dmix;
    dmix.clear();
    dmix.add_product(device::factor(stage.g, S::kWidthRow), mix_row_,
                     device::transposed(stage.x, S::kWidthRow), mix_column_, 0, S::kWidth);
    const int r = lane_ / 4, c = lane_ % 4 * 2;
    float rows[2] = {}, columns[2 * Tile::kColumnBlocks] = {};
    const float* const high = shared_.steps[i % 3] + S::kChunk + (second_ ? Q : 0);
    const float* const low = high + S::kChunk;  // only where kExact
#pragma unroll
    for (int j = 0; j < Tile::kColumnBlocks; ++j) {
      const int s = mix_column_ + 8 * j + c;
      const float2 from = *reinterpret_cast<const float2*>(high + s);
      const float2 step = *reinterpret_cast<const float2*>(weight.dt + s);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = mix_row_ + r + 8 * half;
        float mixed[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float dt = e ? step.y : step.x;
          float difference = high[t] - (e ? from.y : from.x);
          if constexpr (S::kExact) difference += low[t] - low[s + e];
          const bool causal = !kDiagonal || s + e <= t, strictly = !kDiagonal || s + e < t;
          const float decay = causal ? device::exp2_approx(difference) : 0.0f;
          const float faded = causal ? scores_.values[0][j][2 * half + e] * decay : 0.0f;
          const float dm = dmix.values[0][j][2 * half + e];
          const float share = dm * faded;
          mixed[e] = faded * dt;
          dscores_.values[0][j][2 * half + e] += dm * (decay * dt);
          rows[half] += strictly ? share * dt : 0.0f;
          columns[2 * j + e] += strictly ? share : 0.0f;
          if (kDiagonal && s + e == t) sum.own[t] = share;
          if constexpr (S::kExact) sum.pairs[t * (Q + 1) + s + e] = strictly ? share * dt : 0.0f;
        }
        device::store_packed<T, 2>(shared_.mix + t * S::kTokenRow + s, mixed);
      }
    }
    sum_over_rows(columns);
    if (r == 0) {
#pragma unroll
      for (int k = 0; k < 2 * Tile::kColumnBlocks; ++k) {
        sum.column[mix_row_ / 16][mix_column_ + k / 2 * 8 + c + k % 2] = columns[k];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = device::warp_sum<4>(rows[half]);
      if (c == 0) sum.row[mix_column_ / G::Mix::kColumns][mix_row_ + r + 8 * half] = total;
    }
  }

  // dB and dC through the states.
  __device__ void gradients_through_states(const Stage& stage, int i) {
    using Tile = typename G::States::Tile;
    const TileWeights<S>& weight = weights(i);
    const device::Weight<T>* const scale =
        (of_B_ ? weight.to_end : weight.from_start) + state_row_ + lane_ / 4;
    states_.add_product(device::factor(of_B_ ? stage.x : stage.g, S::kWidthRow), state_row_,
                        device::factor(of_B_ ? stage.dh : stage.h, S::kStateRow), state_column_, 0,
                        S::kWidth, [&](device::LeftFragment<T>& a, int block, int) {
                          device::scale_rows<T>(a, scale[16 * block], scale[16 * block + 8]);
                        });
    if (of_B_) return;
    // What a unit adds to C . dC is what it adds to y . g through h.
    float dots[Tile::kRowBlocks][2] = {};
    const T* const C = shared_.C + state_row_ * S::kStateRow + state_column_;
    states_.for_each_pair([&](float a, float b, int t, int n) {
      float pair[2];
      load_pair(pair, C + t * S::kStateRow + n);
      dots[t / 16][t % 16 / 8] += a * pair[0] + b * pair[1];
    });
#pragma unroll
    for (int block = 0; block < Tile::kRowBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float dot = device::warp_sum<4>(dots[block][half]);
        if (lane_ % 4 == 0) {
          sums(i).from_h[state_column_ / G::States::kColumns]
                        [state_row_ + 16 * block + 8 * half + lane_ / 4] = dot;
        }
      }
    }
  }

  __device__ void gradient_of_x(const Stage& stage, int i) {
    using Grid = typename G::Width;
    if (warp_ >= Grid::kWarps) return;
    const TileWeights<S>& weight = weights(i);
    const int row = Grid::row(warp_), column = Grid::column(warp_);
    typename Grid::Tile dx;
    dx.clear();
    dx.add_product(device::factor(shared_.B, S::kStateRow), row,
                   device::transposed(stage.dh, S::kStateRow), column, 0, S::kStates);
    const T* const x = stage.x + row * S::kWidthRow + column;
    float dots[2] = {};
    dx.for_each_pair([&](float& a, float& b, int s, int p) {
      float pair[2];
      load_pair(pair, x + s * S::kWidthRow + p);
      const float to_end = weight.to_end_fp32[row + s], dt = weight.dt[row + s];
      dots[s / 8] += to_end * (a * pair[0] + b * pair[1]);
      a *= to_end * dt;
      b *= to_end * dt;
    });
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float dot = device::warp_sum<4>(dots[half]);
      if (lane_ % 4 == 0) {
        sums(i).from_dh[column / Grid::kColumns][row + lane_ / 4 + 8 * half] = dot;
      }
    }
    if (p_.D) skip_gradients(dx, stage, row, column, i);
    if (!p_.dx) return;
    dx.add_product(device::transposed(shared_.mix, S::kTokenRow), row,
                   device::factor(stage.g, S::kWidthRow), column, row, Q);
    put(shared_.dx, dx, row, column);
  }

  // What D adds to dx, and the tile's part of dD.
  template <class Tile>
  __device__ void skip_gradients(Tile& dx, const Stage& stage, int row, int column, int i) {
    const int at = row * S::kWidthRow + column;
    const float* const D = weights(i).D + column;
    float columns[2 * Tile::kColumnBlocks] = {};
    dx.for_each_pair([&](float& a, float& b, int s, int p) {
      float x[2], g[2];
      load_pair(x, stage.x + at + s * S::kWidthRow + p);
      load_pair(g, stage.g + at + s * S::kWidthRow + p);
      a += D[p] * g[0];
      b += D[p + 1] * g[1];
      columns[p / 8 * 2] += x[0] * g[0];
      columns[p / 8 * 2 + 1] += x[1] * g[1];
    });
    if (!p_.dD) return;
    sum_over_rows(columns);
    if (lane_ >= 4) return;
#pragma unroll
    for (int k = 0; k < 2 * Tile::kColumnBlocks; ++k) {
      sums(i).skip[row / 16][column + k / 2 * 8 + 2 * lane_ + k % 2] = columns[k];
    }
  }

  __device__ void gradient_of_gate(const Unit& unit, const Stage& stage, int i) {
    using Grid = typename G::Width;
    if (warp_ >= Grid::kWarps) return;
    const int row = Grid::row(warp_), column = Grid::column(warp_);
    typename Grid::Tile y;
    y.clear();
    y.add_product(device::factor(shared_.C, S::kStateRow), row,
                  device::transposed(stage.h, S::kStateRow), column, 0, S::kStates);
    y.for_each([&](float& value, int t, int) { value *= weights(i).from_start_fp32[row + t]; });
    y.add_product(device::factor(shared_.mix, S::kTokenRow), row,
                  device::factor(stage.x, S::kWidthRow), column, 0, row + 16);
    const int64_t batch_row = chunk_.sequence.row;
    const T* const dy = p_.dy.at<T>(batch_row, token(), unit.head, unit.first);
    const T* const z = p_.z.at<T>(batch_row, token(), unit.head, unit.first);
    y.for_each([&](float& value, int t, int p) {
      t += row;
      p += column;
      if (t >= tokens_ || p >= unit.width) return;
      if (p_.D) value += weights(i).D[p] * device::to_float(stage.x[t * S::kWidthRow + p]);
      value *= device::to_float(dy[t * p_.dy.stride[1] + p * p_.dy.stride[3]]) *
               device::silu_slope(device::to_float(z[t * p_.z.stride[1] + p * p_.z.stride[3]]));
    });
    put(shared_.dz, y, row, column);
  }

  template <class Tile>
  __device__ void put(T* to, Tile& tile, int row, int column) {
    to += row * S::kWidthRow + column;
    tile.for_each_pair([&](float a, float b, int t, int p) {
      const float pair[] = {a, b};
      device::store_packed<T, 2>(to + t * S::kWidthRow + p, pair);
    });
  }

  // What is left of unit i once all warps are done with it.
  __device__ void finish(int64_t index, int i) {
    const Unit unit(p_, plan_.slices, S::kWidth, index);
    const auto store = [&](const Tensor& to, bool vectors, const T* from) {
      store_rows<Q, S::kWidth, S::kWidthRow>(
          store_team_,
          OutputRows<T>{to.at<T>(chunk_.sequence.row, token(), unit.head, unit.first), to.stride[1],
                        to.stride[3], tokens_, unit.width, vectors},
          from);
    };
    if (store_team_.thread >= 0) {
      if (p_.dx) store(p_.dx, access_.dx, shared_.dx);
      if (p_.dz) store(p_.dz, access_.dz, shared_.dz);
    }
    if (warp_ != G::kStepWarp) return;
    const int64_t slice = unit.slice(S::kWidth), at = tile() * plan_.units(p_.heads) + index;
    float* const to =
        plan_.step_sums +
        ((slice * plan_.chunks.count + chunk_.place) * p_.heads + unit.head) * S::kChunk +
        (second_ ? Q : 0);
    const float dA = gradients_of_steps<S>(sums(i), weights(i).dt, shared_.from_h_before,
                                           *p_.A.at<float>(unit.head), to, lane_);
    if (lane_ == 0) plan_.dA[at] = dA;
    if (p_.dD)
      store_skip_gradient<S>(sums(i), plan_.dD + at * plan_.skip_columns, p_.D.ndim == 2, lane_);
  }

  // The units' dscores, summed, are multiplied by B and C once.
  __device__ void add_scores_gradient() {
    __syncthreads();
    if (warp_ < G::Mix::kWarps) {
      dscores_.for_each_pair([&](float a, float b, int t, int s) {
        const float pair[] = {a, b};
        device::store_packed<T, 2>(shared_.mix + (mix_row_ + t) * S::kTokenRow + mix_column_ + s,
                                   pair);
      });
    }
    __syncthreads();
    if (of_B_) {
      states_.add_product(device::transposed(shared_.mix, S::kTokenRow), state_row_,
                          device::factor(shared_.C, S::kStateRow), state_column_, 0, Q);
    } else {
      states_.add_product(device::factor(shared_.mix, S::kTokenRow), state_row_,
                          device::factor(shared_.B, S::kStateRow), state_column_, 0, Q);
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
  const Team<G::kFetchWarps * device::kWarp> fetch_team_{G::fetch_warp(warp_) * device::kWarp +
                                                         lane_};
  const Team<G::kStoreWarps * device::kWarp> store_team_{G::store_warp(warp_) * device::kWarp +
                                                         lane_};
  const int mix_row_ = G::Mix::row(warp_), mix_column_ = G::mix_column(warp_);
  const bool of_B_ = warp_ >= kWarps / 2;
  const int state_row_ = G::States::row(warp_ % (kWarps / 2));
  const int state_column_ = G::States::column(warp_ % (kWarps / 2));
  typename G::States::Tile states_;  // dC or dB
  typename G::Mix::Tile scores_, dscores_;
};

// A block for every (chunk, group, share, tile of the chunk), tiles fastest.
template <class S>
__global__ void __launch_bounds__(S::kTileWarps* device::kWarp)
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
    const auto clear = [&](float* to, int64_t columns) {
      const int64_t end = (at + last) * columns;
      for (int64_t i = (at + first) * columns + threadIdx.x; i < end; i += blockDim.x) to[i] = 0.0f;
    };
    clear(plan.dA, 1);
    if (p.dD) clear(plan.dD, plan.skip_columns);
    return;
  }
  GradientTile<S> tile(*reinterpret_cast<TileShared<S>*>(memory), p, plan, access, chunk, second,
                       group);
  tile.run(first, last);
  tile.store(share);
}

}  // namespace hax::ssd
