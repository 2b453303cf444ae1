// Backward of the selective scan. Tiles are walked from a sequence's last to its first. A tile's states are
// computed again from the one it starts with: first those where runs of kRun tokens start, then, run by
// run from the last, all of the run's, which stay in registers with their decays for the way back.
#pragma once

#include "scan/selective_scan/selective_scan_kernel.cuh"

namespace hax::selective_scan {

inline constexpr int kRun = 4;

template <class S>
struct BackwardShared {
  static constexpr int kWarps = S::kThreads / device::kWarp;
  static constexpr int kBuffers = S::kAllStates > 128 ? 1 : 2;  // as many as there is room for
  float4 inputs[S::kTile][S::kWidth];      // dt, dt u, gradient of y before the gate
  float sums[3][S::kTile][S::kWidth + 8];  // over n: dh B; dh decay h A log2(e); C h
  float4 starts[S::kTile / kRun - 1][(S::kStates + 3) / 4][S::kThreads];  // h where runs start
  float B[S::kTile][S::kAllStates];
  float C[S::kTile][S::kAllStates];
  float shares[kBuffers][kWarps][kRun][2][S::kAllStates];  // dB and dC of a run
  float bias[S::kWidth], skip[S::kWidth];
};

struct BackwardAccess {
  bool u, delta, z, dy, du, ddelta, dz, states;
};

// Adds with the rounding of earlier additions made good.
struct CompensatedSum {
  float sum = 0.0f, excess = 0.0f;
  __device__ void add(float value) {
    const float wanted = value - excess;
    const float next = sum + wanted;
    excess = (next - sum) - wanted;
    sum = next;
  }
};

// Sums over the lanes that hold the same states of different channels. Of Count values each lane receives
// those from lane / Lanes * (Count * Lanes / 32) on, in front.
template <int Lanes, int Count>
__device__ void sum_over_channels(float (&values)[Count], int lane) {
  int half = Count;
#pragma unroll
  for (int distance = device::kWarp / 2; distance >= Lanes; distance /= 2) {
    half /= 2;
    const bool upper = lane & distance;
#pragma unroll
    for (int i = 0; i < Count / 2; ++i) {
      if (i >= half) continue;
      const float give = upper ? values[i] : values[i + half];
      const float keep = upper ? values[i + half] : values[i];
      values[i] = keep + __shfl_xor_sync(0xffffffffu, give, distance);
    }
  }
}

template <class S>
__device__ void store_start(BackwardShared<S>& shared, int run, const float (&h)[S::kStates]) {
  float padded[(S::kStates + 3) / 4 * 4] = {};
#pragma unroll
  for (int k = 0; k < S::kStates; ++k) padded[k] = h[k];
#pragma unroll
  for (int i = 0; i < (S::kStates + 3) / 4; ++i) {
    shared.starts[run - 1][i][threadIdx.x] =
        make_float4(padded[4 * i], padded[4 * i + 1], padded[4 * i + 2], padded[4 * i + 3]);
  }
}
template <class S>
__device__ void load_start(float (&h)[S::kStates], const BackwardShared<S>& shared, int run) {
#pragma unroll
  for (int i = 0; i < (S::kStates + 3) / 4; ++i) {
    const float4 part = shared.starts[run - 1][i][threadIdx.x];
    const float values[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (4 * i + j < S::kStates) h[4 * i + j] = values[j];
    }
  }
}

// The way back through the run of tokens from `first` on. h: the state before it. dh: gradient of the state
// behind the run, then before it. dA receives what the run adds, without ln(2).
template <class S>
__device__ void reverse_run(BackwardShared<S>& shared, const Lane<S>& lane, int first, int buffer,
                            float (&h)[S::kStates], float (&dh)[S::kStates],
                            float (&dA)[S::kStates]) {
  constexpr int K = S::kStates;
  float before[kRun][K], decays[kRun][K];
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const float4 in = shared.inputs[first + i][lane.channel];
    float B[K];
    load_row(B, &shared.B[first + i][lane.part * K]);
#pragma unroll
    for (int k = 0; k < K; ++k) {
      before[i][k] = h[k];
      decays[i][k] = decay<S>(in.x * lane.rate[0][k]);
      h[k] = decayed<S>(decays[i][k], h[k], in.y * B[k]);
    }
  }
  const int own = threadIdx.x % device::kWarp;
  const int warp = threadIdx.x / device::kWarp;
  float sums[3][kRun];
#pragma unroll
  for (int i = kRun - 1; i >= 0; --i) {
    const float4 in = shared.inputs[first + i][lane.channel];
    float B[K], C[K], shares[2 * K];
    load_row(B, &shared.B[first + i][lane.part * K]);
    load_row(C, &shared.C[first + i][lane.part * K]);
    sums[0][i] = sums[1][i] = sums[2][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const float after = i + 1 < kRun ? before[i + 1 < kRun ? i + 1 : i][k] : h[k];
      dh[k] += C[k] * in.z;
      shares[k] = in.y * dh[k];
      shares[K + k] = in.z * after;
      sums[0][i] += dh[k] * B[k];
      const float faded = dh[k] * decayed<S>(decays[i][k], before[i][k], 0.0f);
      sums[1][i] += faded * lane.rate[0][k];
      sums[2][i] += C[k] * after;
      dA[k] += in.x * faded;
      dh[k] = decayed<S>(decays[i][k], dh[k], 0.0f);
    }
    sum_over_channels<S::kLanes>(shares, own);
    constexpr int kKept = 2 * K * S::kLanes / device::kWarp;
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      const int index = own / S::kLanes * kKept + j;
      shared.shares[buffer][warp][i][index / K][lane.part * K + index % K] = shares[j];
    }
  }
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    const float sum = device::warp_sums<S::kLanes>(sums[j], lane.part);
    if (lane.part < kRun) shared.sums[j][first + lane.part][lane.channel] = sum;
  }
}

// Adds what the warps have for a run's dB and dC and hands it to the slice's row of plan.shares.
template <class S>
__device__ void flush_shares(const BackwardShared<S>& shared, const BackwardParams& p,
                             const CudaBackwardPlan& plan, int64_t slice, bool first_of_slice,
                             int64_t row, int64_t token, int tokens, int64_t group, int buffer) {
  for (int i = threadIdx.x; i < kRun * 2 * S::kAllStates; i += S::kThreads) {
    const int t = i / (2 * S::kAllStates), which = i / S::kAllStates % 2, n = i % S::kAllStates;
    if (t >= tokens || n >= p.states) continue;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < BackwardShared<S>::kWarps; ++warp) {
      sum += shared.shares[buffer][warp][t][which][n];
    }
    const int64_t place = (slice * p.batch + row) * p.length + token + t;
    float* const to = plan.shares + ((place * p.groups + group) * 2 + which) * p.states + n;
    *to = first_of_slice ? sum : *to + sum;
  }
}

template <class S>
class BackwardBlock {
 public:
  __device__ BackwardBlock(BackwardShared<S>& shared, const BackwardParams& p,
                           const CudaBackwardPlan& plan, const BackwardAccess& access,
                           const Checkpoints& starts, const BlockChannels& block, int64_t slice,
                           bool first_of_slice)
      : shared_(shared),
        p_(p),
        plan_(plan),
        access_(access),
        starts_(starts),
        block_(block),
        lane_(p, block),
        slice_(slice),
        first_of_slice_(first_of_slice) {
    __syncthreads();  // the channels before may still be in use
    load_channels<S>(shared_.bias, p.delta_bias, block);
    load_channels<S>(shared_.skip, p.D, block);
    __syncthreads();
  }

  __device__ void sequence(int64_t s) {
    const Sequences::Range range = p_.sequences.range(s);
    float dh[1][S::kStates];
    lane_.load(dh, p_.dfinal_state, p_.dfinal_state.offset(s), block_, p_.states);
    for (int64_t t = (range.length - 1) / S::kTile * S::kTile; t >= 0 && range.length > 0;
         t -= S::kTile) {
      if (t > 0) {
        lane_.load(lane_.h, starts_.states, starts_.offset(range, t), block_, p_.states);
      } else {
        lane_.load(lane_.h, p_.initial_state, p_.initial_state.offset(s), block_, p_.states);
      }
      tile(range, t, static_cast<int>(min(int64_t{S::kTile}, range.length - t)), dh[0]);
    }
    if (p_.dinitial_state) {
      lane_.store(dh, p_.dinitial_state, p_.dinitial_state.offset(s), block_, p_.states);
    }
  }

  // Leaves what the sequences so far add to dA, dD and ddelta_bias in row `run` of plan.sums.
  __device__ void finish(int64_t run) {
    float* const to = plan_.sums + run * (p_.states + 2) * p_.channels;
    lane_.for_each(block_, [&](int, int k, int64_t c, int64_t n) {
      if (c >= 0 && n < p_.states) to[n * p_.channels + c] = dA_[k].sum;
    });
#pragma unroll
    for (int i = 0; i < S::kElements; ++i) {
      shared_.sums[0][own_token_][c_ + i] = dD_[i].sum;
      shared_.sums[1][own_token_][c_ + i] = dbias_[i].sum;
    }
    __syncthreads();
    if (threadIdx.x < block_.count) {
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        float sum = 0.0f;
        for (int t = 0; t < S::kTile; ++t) sum += shared_.sums[which][t][threadIdx.x];
        to[(p_.states + which) * p_.channels + block_.first + threadIdx.x] = sum;
      }
    }
  }

 private:
  __device__ void tile(const Sequences::Range& range, int64_t begin, int tokens,
                       float (&dh)[S::kStates]) {
    const int64_t row = range.row, token = range.begin + begin;
    Fetched<S> u, delta, z, dy;
    u.load(p_.u, access_.u, row, token, tokens, block_);
    delta.load(p_.delta, access_.delta, row, token, tokens, block_);
    dy.load(p_.dy, access_.dy, row, token, tokens, block_);
    if (p_.z) z.load(p_.z, access_.z, row, token, tokens, block_);
    StateRows<S> rows(p_, access_.states);
    rows.fetch(row, token, tokens, block_.group);
    rows.store(shared_.B[0], shared_.C[0], row, token, tokens, block_.group);
    float dt[S::kElements], dsum[S::kElements];
#pragma unroll
    for (int i = 0; i < S::kElements; ++i) {
      const bool used = own_token_ < tokens && c_ + i < block_.count;
      dt[i] = used ? step_size<S>(delta[i] + shared_.bias[c_ + i], p_.softplus) : 0.0f;
      dsum[i] = p_.z ? dy[i] * device::silu(z[i]) : dy[i];
      shared_.inputs[own_token_][c_ + i] = make_float4(dt[i], dt[i] * u[i], dsum[i], 0.0f);
    }
    __syncthreads();
    scan(row, token, tokens, dh);
    __syncthreads();

    float du[S::kElements], ddelta[S::kElements], dz[S::kElements];
#pragma unroll
    for (int i = 0; i < S::kElements; ++i) {
      const int c = c_ + i;
      const float from_B = shared_.sums[0][own_token_][c];
      const float ddt = u[i] * from_B + device::kLn2 * shared_.sums[1][own_token_][c];
      const float y = shared_.sums[2][own_token_][c] + shared_.skip[c] * u[i];
      du[i] = dt[i] * from_B + shared_.skip[c] * dsum[i];
      ddelta[i] = p_.softplus ? ddt * device::sigmoid(delta[i] + shared_.bias[c]) : ddt;
      dz[i] = p_.z ? dy[i] * y * device::silu_slope(z[i]) : 0.0f;
      if (own_token_ < tokens && c < block_.count) {
        dD_[i].add(dsum[i] * u[i]);
        dbias_[i].add(ddelta[i]);
      }
    }
    if (p_.du) store_elements<S>(p_.du, access_.du, row, token, tokens, block_, du);
    if (p_.ddelta) store_elements<S>(p_.ddelta, access_.ddelta, row, token, tokens, block_, ddelta);
    if (p_.dz) store_elements<S>(p_.dz, access_.dz, row, token, tokens, block_, dz);
  }

  __device__ void scan(int64_t row, int64_t token, int tokens, float (&dh)[S::kStates]) {
    constexpr int K = S::kStates;
    const int runs = (tokens + kRun - 1) / kRun;
    float start[K], h[K], dA[K] = {};
#pragma unroll
    for (int k = 0; k < K; ++k) start[k] = h[k] = lane_.h[0][k];
#pragma unroll 1
    for (int run = 1; run < runs; ++run) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int t = (run - 1) * kRun + i;
        const float4 in = shared_.inputs[t][lane_.channel];
        float B[K];
        load_row(B, &shared_.B[t][lane_.part * K]);
#pragma unroll
        for (int k = 0; k < K; ++k) {
          h[k] = decayed<S>(decay<S>(in.x * lane_.rate[0][k]), h[k], in.y * B[k]);
        }
      }
      store_start<S>(shared_, run, h);
    }
#pragma unroll 1
    for (int run = runs - 1; run >= 0; --run) {
      if (run > 0) {
        load_start<S>(h, shared_, run);
      } else {
#pragma unroll
        for (int k = 0; k < K; ++k) h[k] = start[k];
      }
      constexpr int kBuffers = BackwardShared<S>::kBuffers;
      reverse_run<S>(shared_, lane_, run * kRun, run % kBuffers, h, dh, dA);
      if (!plan_.shares) continue;
      __syncthreads();
      flush_shares<S>(shared_, p_, plan_, slice_, first_of_slice_, row, token + run * kRun,
                      tokens - run * kRun, block_.group, run % kBuffers);
      if (kBuffers == 1) __syncthreads();
    }
#pragma unroll
    for (int k = 0; k < K; ++k) dA_[k].add(dA[k]);
  }

  BackwardShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const BackwardAccess& access_;
  const Checkpoints& starts_;
  const BlockChannels block_;
  Lane<S> lane_;
  const int64_t slice_;
  const bool first_of_slice_;
  const int c_ = threadIdx.x % S::kGroups * S::kElements;
  const int own_token_ = threadIdx.x / S::kGroups;
  CompensatedSum dA_[S::kStates];
  CompensatedSum dD_[S::kElements], dbias_[S::kElements];
};

// A block for every (range of sequences, group, slice), slices fastest.
template <class S>
__global__ void __launch_bounds__(S::kThreads, 2)
    backward_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ CudaBackwardPlan plan,
                    const __grid_constant__ Checkpoints starts,
                    const __grid_constant__ BackwardAccess access) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<BackwardShared<S>*>(memory);
  const int64_t slice = blockIdx.x % plan.slices;
  const int64_t group = blockIdx.x / plan.slices % p.groups;
  const int64_t run = blockIdx.x / plan.slices / p.groups;
  const int64_t per_group = (p.channels / p.groups + S::kWidth - 1) / S::kWidth;
  const int64_t first = p.sequences.count() * run / plan.runs;
  const int64_t last = p.sequences.count() * (run + 1) / plan.runs;
  for (int64_t i = slice; i < per_group; i += plan.slices) {
    const BlockChannels block(p, group * per_group + i, S::kWidth);
    BackwardBlock<S> work(shared, p, plan, access, starts, block, slice, i == slice);
    for (int64_t s = first; s < last; ++s) work.sequence(s);
    work.finish(run);
  }
}

inline constexpr int kReduceThreads = 256;

// dB and dC: the slices' shares, added in order. A thread for every (row, token, group, n).
template <class T>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_shares_kernel(const __grid_constant__ BackwardParams p,
                         const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x;
  const int64_t count = p.batch * p.length * p.groups * p.states;
  if (index >= count) return;
  const int64_t n = index % p.states, outer = index / p.states;
  const float* from = plan.shares + outer * 2 * p.states + n;
  float dB = 0.0f, dC = 0.0f;
#pragma unroll 8
  for (int64_t slice = 0; slice < plan.slices; ++slice, from += 2 * count) {
    dB += from[0];
    dC += from[p.states];
  }
  const int64_t group = outer % p.groups, t = outer / p.groups % p.length;
  const int64_t row = outer / p.groups / p.length;
  if (p.dB) *p.dB.at<T>(row, t, group, n) = device::from_float<T>(dB);
  if (p.dC) *p.dC.at<T>(row, t, group, n) = device::from_float<T>(dC);
}

// dA, dD and ddelta_bias: the ranges' sums, added in order. A thread for every (n or one of the two, d).
__global__ void __launch_bounds__(kReduceThreads)
    reduce_sums_kernel(const __grid_constant__ BackwardParams p,
                       const __grid_constant__ CudaBackwardPlan plan) {
  const int64_t index = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x;
  const int64_t count = (p.states + 2) * p.channels;
  if (index >= count) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t run = 0; run < plan.runs; ++run) sum += plan.sums[run * count + index];
  const int64_t n = index / p.channels, d = index % p.channels;
  if (n < p.states) {
    if (p.dA) *p.dA.at<float>(d, n) = sum;
  } else if (n == p.states) {
    if (p.dD) *p.dD.at<float>(d) = sum;
  } else if (p.ddelta_bias) {
    *p.ddelta_bias.at<float>(d) = sum;
  }
}

}  // namespace hax::selective_scan
