// The states of small heads where chunks start, the gradients of those where chunks end, and the steps' decays. A block
// walks neighbouring units of a sequence, which share B or C, a span of chunks at a time: a warp for each unit of a chunk
// finds what the chunk adds, then each passes the unit's state through the span up to its own chunk.
#pragma once

#include "scan/ssd/ssd_kernel_backward_heads_memory.cuh"
#include "scan/ssd/ssd_kernel_backward_segment.cuh"

namespace hax::ssd {

inline constexpr int kWalkSpan = 3;  // chunks
inline constexpr int kHeadWalkThreads = kWalkSpan * kHeadThreads;

template <class S>
struct HeadsWalkShared {
  using T = typename S::T;
  struct Chunk {
    T rows[S::kTokens * S::kStateRow];  // B, or C
    struct {
      T tokens[S::kTokens * S::kWidthRow];  // x, or the gradient of y
      T weights[S::kTokens];
    } units[kHeadWarps];
  } chunks[kWalkSpan];
  // What chunks add, each lane's part as it has it, and how the state decays.
  struct Sum {
    float4 added[S::kStateSize / 4];
    float decay;
  } sums[kHeadWarps][kWalkSpan];
};

template <class S>
class HeadsWalk : SegmentWalk<S, device::WarpTile<S::kWidth, S::kStates>, device::kWarp> {
  using T = typename S::T;
  using Tile = device::WarpTile<S::kWidth, S::kStates>;
  using Base = SegmentWalk<S, Tile, device::kWarp>;
  using Base::back_, Base::begin_, Base::chunk_at, Base::chunks_, Base::end_, Base::fade,
      Base::finish, Base::goes_to_end, Base::group_, Base::only_sum_, Base::p_, Base::place_,
      Base::plan_, Base::range_, Base::state_, Base::state_of, Base::unit_;
  using Shared = HeadsWalkShared<S>;
  static constexpr int Q = S::kTokens;
  static_assert(Q == 2 * device::kWarp);

 public:
  // walks: whether there is a unit for this warp; if not, it helps to bring rows.
  __device__ HeadsWalk(Shared& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                       const BackwardAccess& access, const WalkIndex& index, bool walks)
      : Base(p, plan, index, 0, 0), shared_(shared), access_(access), walks_(walks) {
    // Rows from the sequence's first token on.
    const auto rows = [&](const Tensor& tensor, bool vectors, int64_t member, int64_t columns) {
      return token_rows<T>(tensor, vectors, range_.row, range_.begin, Q, member, 0,
                           static_cast<int>(columns));
    };
    rows_ = rows(back_ ? p.C : p.B, back_ ? access.C : access.B, group_, p.states);
    tokens_ = rows(back_ ? plan.g : p.x, back_ ? access.g : access.x, unit_.head, unit_.width);
    dt_ = p.dt.offset(range_.row, range_.begin + 2 * lane_, unit_.head);
    rate_ = *p.A.template at<float>(unit_.head) * device::kLog2E;
    bias_ = p.dt_bias ? *p.dt_bias.template at<float>(unit_.head) : 0.0f;
  }

  __device__ void run() {
    fetch_rows(begin_ + place_in_span_);
    if (walks_) {
      fetch_tokens(begin_ + place_in_span_);
      Base::start();
    }
    device::commit_copies();
    auto& sums = shared_.sums[own_unit_];
    for (int first = begin_; first < end_; first += kWalkSpan) {
      const int step = first + place_in_span_;
      device::wait_for_copies<0>();
      __syncthreads();
      if (walks_ && step < end_) add_up(step, sums[place_in_span_]);
      __syncthreads();
      fetch_rows(step + kWalkSpan);
      if (walks_) fetch_tokens(step + kWalkSpan);
      device::commit_copies();
      if (walks_) pass_through(first, sums);
    }
    if (walks_ && place_in_span_ == 0) finish(lane_);
  }

 private:
  __device__ int tokens_of(int chunk) const {
    return static_cast<int>(min(int64_t{Q}, range_.length - int64_t{chunk} * Q));
  }
  __device__ Rows<T> rows_of(Rows<T> rows, int chunk) const {
    rows.data += int64_t{chunk} * Q * rows.stride;
    rows.rows = tokens_of(chunk);
    return rows;
  }

  __device__ void fetch_rows(int step) {
    if (step >= end_) return;
    fetch<Q, S::kStates, S::kStateRow>(
        Team<kHeadThreads>{static_cast<int>(threadIdx.x) % kHeadThreads},
        shared_.chunks[place_in_span_].rows, rows_of(rows_, chunk_at(step)));
  }
  // The unit's tokens, and dt of the lane's two.
  __device__ void fetch_tokens(int step) {
    if (step >= end_) return;
    const int chunk = chunk_at(step), left = tokens_of(chunk) - 2 * lane_;
    fetch<Q, S::kWidth, S::kWidthRow>(Team<device::kWarp>{lane_}, own().tokens,
                                      rows_of(tokens_, chunk));
    const int64_t offset = dt_ + int64_t{chunk} * Q * p_.dt.stride[1];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int64_t at = offset + k * p_.dt.stride[1];
      raw_[k] = 0;
      if (k >= left) continue;
      raw_[k] = p_.dt.type == Type::fp32 ? static_cast<const uint32_t*>(p_.dt.data)[at]
                                         : static_cast<const uint16_t*>(p_.dt.data)[at];
    }
  }
  __device__ float raw_step(int k) const {
    return p_.dt.type == Type::fp32 ? __uint_as_float(raw_[k])
                                    : device::to_float(T{static_cast<uint16_t>(raw_[k])});
  }

  // What the chunk adds to the state, and the state's decay.
  __device__ void add_up(int step, typename Shared::Sum& to) {
    const float decay = weigh(step);
    if (lane_ == 0) to.decay = decay;
    Tile added;
    added.clear();
    added.add_product(device::transposed(own().tokens, S::kWidthRow), 0,
                      device::factor(shared_.chunks[place_in_span_].rows, S::kStateRow), 0, 0, Q,
                      [&](device::LeftFragment<T>& a, int, int k) {
                        device::scale_columns(a, own().weights + k, lane_);
                      });
#pragma unroll
    for (int j = 0; j < Tile::kColumnBlocks; ++j) {
      const float(&v)[4] = added.values[0][j];
      to.added[j * device::kWarp + lane_] = make_float4(v[0], v[1], v[2], v[3]);
    }
  }

  // The state behind the span, and on the way to it the one before the own chunk.
  __device__ void pass_through(int first, const typename Shared::Sum (&sums)[kWalkSpan]) {
#pragma unroll
    for (int i = 0; i < kWalkSpan; ++i) {
      if (first + i >= end_) return;
      if (i == place_in_span_ && !only_sum_) store_state(first + i);
      if (first + i + 1 == end_ && !goes_to_end()) return;
      fade(first + i, sums[i].decay);
#pragma unroll
      for (int j = 0; j < Tile::kColumnBlocks; ++j) {
        const float4 more = sums[i].added[j * device::kWarp + lane_];
        float(&v)[4] = state_.values[0][j];
        v[0] += more.x, v[1] += more.y, v[2] += more.z, v[3] += more.w;
      }
    }
  }

  // Tokens' weights in the state; forwards also what the plan keeps of the steps. Returns the state's decay.
  __device__ float weigh(int step) {
    const int chunk = chunk_at(step);
    const int tokens = tokens_of(chunk);
    float dt[2], exponent[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float value = device::softplus_accurate(raw_step(k) + bias_);
      const float limited = value < p_.dt_min ? p_.dt_min : value > p_.dt_max ? p_.dt_max : value;
      dt[k] = 2 * lane_ + k < tokens ? limited : 0.0f;
    }
    exponent[0] = dt[0] * rate_;
    exponent[1] = exponent[0] + dt[1] * rate_;
    float sum = exponent[1];
#pragma unroll
    for (int distance = 1; distance < device::kWarp; distance *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane_ >= distance) sum += other;
    }
    float before = __shfl_up_sync(0xffffffffu, sum, 1);
    if (lane_ == 0) before = 0.0f;
    const float end = __shfl_sync(0xffffffffu, sum, device::kWarp - 1);
    exponent[0] += before;
    exponent[1] += before;
    float fading = device::exp2_approx(end);
    float weights[2];
    if (back_) {
#pragma unroll
      for (int k = 0; k < 2; ++k) weights[k] = device::exp2_approx(exponent[k]);
    } else {
      // What is before the last checkpoint in the chunk is not needed.
      const int64_t first = int64_t{chunk} * Q, stop = first + tokens;
      const int start =
          p_.checkpoints
              ? static_cast<int>(
                    max(int64_t{0}, stop / p_.checkpoints.every * p_.checkpoints.every - first))
              : 0;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        weights[k] = 2 * lane_ + k >= start ? dt[k] * device::exp2_approx(end - exponent[k]) : 0.0f;
      }
      if (start > 0) {
        const float from =
            __shfl_sync(0xffffffffu, start % 2 ? exponent[0] : exponent[1], (start - 1) / 2);
        fading = device::exp2_approx(end - from);
      }
      if (!only_sum_) keep_steps(chunk, dt, exponent);
    }
    device::store_packed<T, 2>(own().weights + 2 * lane_, weights);
    __syncwarp();
    return fading;
  }

  __device__ void keep_steps(int chunk, const float (&dt)[2], const float (&exponent)[2]) {
    float* const steps =
        plan_.steps + ((place_ + chunk) * p_.heads + unit_.head) * 2 * Q + 2 * lane_;
    device::store_packed<float, 2>(steps, dt);
    device::store_packed<float, 2>(steps + Q, exponent);
  }

  __device__ void store_state(int step) {
    T* const to = state_of(step);
    state_.for_each_pair([&](float a, float b, int p, int n) {
      const float pair[] = {a, b};
      device::store_packed<T, 2>(to + p * S::kStates + n, pair);
    });
  }

  __device__ auto& own() { return shared_.chunks[place_in_span_].units[own_unit_]; }

  Shared& shared_;
  const BackwardAccess& access_;
  const bool walks_;
  const int lane_ = threadIdx.x % device::kWarp;
  const int own_unit_ = threadIdx.x / device::kWarp % kHeadWarps;
  const int place_in_span_ = threadIdx.x / kHeadThreads;
  Rows<T> rows_, tokens_;
  int64_t dt_;  // offset of the lane's first token
  float rate_, bias_;
  uint32_t raw_[2];  // dt as it is stored: nothing waits for it before it is needed
};

// A block for every (segment, sequence, kHeadWarps units of a group, direction), directions fastest.
template <class S>
__global__ void __launch_bounds__(kHeadWalkThreads, 2)
    backward_heads_walk_kernel(const __grid_constant__ BackwardParams p,
                               const __grid_constant__ CudaBackwardPlan plan,
                               const __grid_constant__ BackwardAccess access, bool only_sum) {
  extern __shared__ __align__(16) unsigned char memory[];
  const uint32_t members = narrow(p.heads) / narrow(p.groups);
  const uint32_t per_group = (members + kHeadWarps - 1) / kHeadWarps;
  const uint32_t blocks = per_group * narrow(p.groups), index = blockIdx.x / 2;
  const uint32_t block = index % blocks, walk = index / blocks;
  const uint32_t sequences = narrow(p.sequences.count());
  const uint32_t first = block % per_group * kHeadWarps,
                 member = first + threadIdx.x / device::kWarp % kHeadWarps;
  const bool walks = member < members;
  const uint32_t unit = block / per_group * members + (walks ? member : first);
  HeadsWalk<S> heads(*reinterpret_cast<HeadsWalkShared<S>*>(memory), p, plan, access,
                     {blockIdx.x % 2 != 0, walk % sequences, unit, walk / sequences, only_sum},
                     walks);
  heads.run();
}

}  // namespace hax::ssd
