// The states of small heads where chunks start, the gradients of those where chunks end, and the steps' decays. A warp walks a
// unit of a sequence; a block has neighbouring units, which share B or C.
#pragma once

#include "scan/ssd/ssd_kernel_backward_heads_unit.cuh"
#include "scan/ssd/ssd_kernel_backward_segment.cuh"

namespace hax::ssd {

inline constexpr int kHeadStages = 3;

template <class S>
struct HeadsWalkShared {
  using T = typename S::T;
  struct Stage {
    T rows[S::kTokens * S::kStateRow];                // B, or C
    T tokens[kHeadWarps][S::kTokens * S::kWidthRow];  // x, or the gradient of y
  } stages[kHeadStages];
  T weights[kHeadWarps][S::kTokens];
};

template <class S>
class HeadsWalk : SegmentWalk<S, device::WarpTile<S::kWidth, S::kStates>, device::kWarp> {
  using T = typename S::T;
  using Base = SegmentWalk<S, device::WarpTile<S::kWidth, S::kStates>, device::kWarp>;
  using Base::back_, Base::begin_, Base::chunk_at, Base::chunks_, Base::end_, Base::fade,
      Base::finish, Base::goes_to_end, Base::group_, Base::only_sum_, Base::p_, Base::place_,
      Base::plan_, Base::range_, Base::state_, Base::state_of, Base::unit_;
  static constexpr int Q = S::kTokens;
  static_assert(Q == 2 * device::kWarp);

 public:
  // walks: whether there is a unit for this warp; if not, it helps to bring rows.
  __device__ HeadsWalk(HeadsWalkShared<S>& shared, const BackwardParams& p,
                       const CudaBackwardPlan& plan, const BackwardAccess& access,
                       const WalkIndex& index, bool walks)
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
    for (int ahead = 0; ahead < kHeadStages - 1; ++ahead) {
      fetch_chunk(begin_ + ahead, shared_.stages[ahead]);
      device::commit_copies();
    }
    int stage = 0;  // of this step
    if (walks_) {
      Base::start();
      load_steps(begin_);
    }
    for (int step = begin_; step < end_; ++step, stage = stage + 1 < kHeadStages ? stage + 1 : 0) {
      device::wait_for_copies<kHeadStages - 2>();
      __syncthreads();
      fetch_chunk(step + kHeadStages - 1, shared_.stages[stage > 0 ? stage - 1 : kHeadStages - 1]);
      device::commit_copies();
      if (!walks_) continue;
      const float fading = weigh(step);
      load_steps(step + 1);
      if (!only_sum_) store_state(step);
      if (step + 1 == end_ && !goes_to_end()) break;
      fade(step, fading);
      state_.add_product(device::transposed(shared_.stages[stage].tokens[warp_], S::kWidthRow), 0,
                         device::factor(shared_.stages[stage].rows, S::kStateRow), 0, 0, Q,
                         [&](device::LeftFragment<T>& a, int, int k) {
                           device::scale_columns(a, shared_.weights[warp_] + k, lane_);
                         });
    }
    if (walks_) finish(lane_);
  }

 private:
  __device__ int tokens_of(int chunk) const {
    return static_cast<int>(min(int64_t{Q}, range_.length - int64_t{chunk} * Q));
  }

  __device__ void fetch_chunk(int step, typename HeadsWalkShared<S>::Stage& stage) {
    if (step >= end_) return;
    const int chunk = chunk_at(step);
    const auto rows_of = [&](Rows<T> rows) {
      rows.data += int64_t{chunk} * Q * rows.stride;
      rows.rows = tokens_of(chunk);
      return rows;
    };
    fetch<Q, S::kStates, S::kStateRow>(Team<kHeadThreads>{static_cast<int>(threadIdx.x)},
                                       stage.rows, rows_of(rows_));
    if (!walks_) return;
    fetch<Q, S::kWidth, S::kWidthRow>(Team<device::kWarp>{lane_}, stage.tokens[warp_],
                                      rows_of(tokens_));
  }

  // dt of the lane's two tokens.
  __device__ void load_steps(int step) {
    if (step >= end_) return;
    const int chunk = chunk_at(step), left = tokens_of(chunk) - 2 * lane_;
    const int64_t offset = dt_ + int64_t{chunk} * Q * p_.dt.stride[1];
    const auto load = [&](const auto* from) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        raw_[k] = k < left ? device::to_float(from[offset + k * p_.dt.stride[1]]) : 0.0f;
      }
    };
    if (p_.dt.type == Type::fp32) {
      load(p_.dt.template at<float>());
    } else {
      load(p_.dt.template at<T>());
    }
  }

  // Tokens' weights in the state; forwards also what the plan keeps of the steps. Returns the state's decay.
  __device__ float weigh(int step) {
    const int chunk = chunk_at(step);
    const int tokens = tokens_of(chunk);
    float dt[2], exponent[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float value = device::softplus_accurate(raw_[k] + bias_);
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
    __syncwarp();
    device::store_packed<T, 2>(shared_.weights[warp_] + 2 * lane_, weights);
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

  HeadsWalkShared<S>& shared_;
  const BackwardAccess& access_;
  const bool walks_;
  const int lane_ = threadIdx.x % device::kWarp, warp_ = threadIdx.x / device::kWarp;
  Rows<T> rows_, tokens_;
  int64_t dt_;  // offset of the lane's first token
  float rate_, bias_, raw_[2];
};

// A block for every (segment, sequence, kHeadWarps units of a group, direction), directions fastest.
template <class S>
__global__ void __launch_bounds__(kHeadThreads)
    backward_heads_walk_kernel(const __grid_constant__ BackwardParams p,
                               const __grid_constant__ CudaBackwardPlan plan,
                               const __grid_constant__ BackwardAccess access, bool only_sum) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t members = p.heads / p.groups, per_group = (members + kHeadWarps - 1) / kHeadWarps;
  const int64_t blocks = per_group * p.groups, index = blockIdx.x / 2, block = index % blocks;
  const int64_t first = block % per_group * kHeadWarps,
                member = first + threadIdx.x / device::kWarp;
  const bool walks = member < members;
  const int64_t unit = block / per_group * members + (walks ? member : first);
  const int64_t walk = index / blocks;
  HeadsWalk<S> heads(
      *reinterpret_cast<HeadsWalkShared<S>*>(memory), p, plan, access,
      {blockIdx.x % 2 != 0, walk % p.sequences.count(), unit, walk / p.sequences.count(), only_sum},
      walks);
  heads.run();
}

}  // namespace hax::ssd
