// The states where chunks start and the gradients of those where chunks end, for ssd's backward. A block walks one
// unit of one sequence, its state in registers; tiles arrive some steps ahead.
#pragma once

#include "scan/ssd/ssd_kernel_backward_segment.cuh"

namespace hax::ssd {

inline constexpr int kWalkStages = 3, kWalkFetchers = 2;

template <class S>
struct WalkShared {
  static constexpr int kTokens = S::kTokens / 2;  // a chunk is taken in two steps
  struct Stage {
    typename S::T tokens[kTokens * S::kWidthRow];  // x, or the gradient of y
    typename S::T rows[kTokens * S::kStateRow];    // B, or C
    typename S::T weights[kTokens];
    float decays[4];
  } stages[kWalkStages];
  typename S::T state[S::kWidth * S::kStateRow];  // on its way to memory
  // Where tiles come from: the sequence's first token, the unit's first chunk. Here, for its warp to have registers.
  struct Source {
    Rows<typename S::T> tokens, rows;
    const typename S::T* weights;
    const float* decays;
  } source[kWalkFetchers];
};

template <class S>
struct WalkGrid {
  static constexpr int kThreads = S::kWalkWarps * device::kWarp;
  static constexpr int kDown = S::kWidth > 32 ? S::kWidth / 32 : 1;
  using Grid = device::WarpGrid<S::kWidth, S::kStates, S::kWalkWarps / kDown, kDown>;
  using Base = SegmentWalk<S, typename Grid::Tile, kThreads>;
};

template <class S>
class Walk : WalkGrid<S>::Base {
  using T = typename S::T;
  using Grid = typename WalkGrid<S>::Grid;
  using Base = typename WalkGrid<S>::Base;
  using Base::back_, Base::begin_, Base::chunk_at, Base::column_, Base::end_, Base::fade,
      Base::finish, Base::goes_to_end, Base::group_, Base::only_sum_, Base::p_, Base::place_,
      Base::plan_, Base::range_, Base::row_, Base::state_, Base::state_of, Base::unit_;
  static constexpr int kTokens = WalkShared<S>::kTokens, kPerChunk = 2;
  static constexpr int kThreads = WalkGrid<S>::kThreads;

 public:
  __device__ Walk(WalkShared<S>& shared, const BackwardParams& p, const CudaBackwardPlan& plan,
                  const BackwardAccess& access, const WalkIndex& index)
      : Base(p, plan, index, Grid::row(threadIdx.x / device::kWarp),
             Grid::column(threadIdx.x / device::kWarp)),
        shared_(shared),
        access_(access) {}

  // The last warps bring the tiles; the others compute.
  __device__ void run() {
    const bool fetches = threadIdx.x >= kThreads;
    const int steps = kPerChunk * (end_ - begin_ - (goes_to_end() ? 0 : 1));
    if (fetches) {
      shared_.source[threadIdx.x / device::kWarp - S::kWalkWarps] = make_source();
      __syncwarp();
      for (int ahead = 0; ahead < kWalkStages - 1; ++ahead) {
        if (ahead < steps) fetch_step(ahead, shared_.stages[ahead]);
        device::commit_copies();
      }
    } else {
      Base::start();
    }
    int turn = 0;  // stage of the step
    for (int i = 0; i < steps; ++i, turn = turn + 1 < kWalkStages ? turn + 1 : 0) {
      if (fetches) {
        device::wait_for_copies<kWalkStages - 2>();
      } else if (i % kPerChunk == 0 && !only_sum_) {
        put_state();
      }
      __syncthreads();
      if (fetches) {
        const int ahead = i + kWalkStages - 1;
        if (ahead < steps) {
          fetch_step(ahead, shared_.stages[turn > 0 ? turn - 1 : kWalkStages - 1]);
        }
        device::commit_copies();
      } else {
        const auto& stage = shared_.stages[turn];
        if (i % kPerChunk == 0) {
          if (!only_sum_) store_state(begin_ + i / kPerChunk);
          fade(begin_ + i / kPerChunk, stage.decays[back_]);
        }
        add(stage);
      }
    }
    if (end_ > begin_ && !goes_to_end()) {
      if (!fetches) put_state();
      __syncthreads();
      if (!fetches) store_state(end_ - 1);
    }
    if (!fetches) finish(threadIdx.x);
  }

 private:
  __device__ typename WalkShared<S>::Source make_source() const {
    const auto rows = [&](const Tensor& tensor, bool vectors, int64_t member, int first,
                          int64_t columns) {
      return token_rows<T>(tensor, vectors, range_.row, range_.begin, kTokens, member, first,
                           static_cast<int>(columns));
    };
    const int64_t at = place_ * p_.heads + unit_.head;
    const int64_t direction = back_ ? plan_.chunks.count * p_.heads * S::kTokens : 0;
    return {rows(back_ ? plan_.g : p_.x, back_ ? access_.g : access_.x, unit_.head, unit_.first,
                 unit_.width),
            rows(back_ ? p_.C : p_.B, back_ ? access_.C : access_.B, group_, 0, p_.states),
            static_cast<const T*>(plan_.weights) + direction + at * S::kTokens,
            plan_.decays + at * 4};
  }
  __device__ void fetch_step(int i, typename WalkShared<S>::Stage& stage) {
    const Team<kWalkFetchers * device::kWarp> team{static_cast<int>(threadIdx.x) - kThreads};
    const auto& source = shared_.source[team.thread / device::kWarp];
    const int chunk = chunk_at(begin_ + i / kPerChunk), begin = i % kPerChunk * kTokens;
    const int64_t first = int64_t{chunk} * S::kTokens + begin;
    const int tokens =
        static_cast<int>(min(int64_t{kTokens}, max(int64_t{0}, range_.length - first)));
    const auto rows_of = [&](Rows<T> rows) {
      if (tokens > 0) rows.data += first * rows.stride;
      rows.rows = tokens;
      return rows;
    };
    fetch<kTokens, S::kWidth, S::kWidthRow>(team, stage.tokens, rows_of(source.tokens));
    fetch<kTokens, S::kStates, S::kStateRow>(team, stage.rows, rows_of(source.rows));
    const int64_t at = int64_t{chunk} * p_.heads;
    fetch_bytes(team, stage.weights, source.weights + at * S::kTokens + begin,
                sizeof(stage.weights));
    fetch_bytes(team, stage.decays, source.decays + at * 4, sizeof(stage.decays));
  }

  __device__ void add(const typename WalkShared<S>::Stage& stage) {
    const int lane = threadIdx.x % device::kWarp;
    const auto weigh = [&](device::LeftFragment<T>& a, int, int k) {
      device::scale_columns(a, stage.weights + k, lane);
    };
    const auto add_to = [&](typename Grid::Tile& state) {
      state.add_product(device::transposed(stage.tokens, S::kWidthRow), row_,
                        device::factor(stage.rows, S::kStateRow), column_, 0, kTokens, weigh);
    };
    if constexpr (S::kExact) {
      // Tensor cores truncate their sums, which a long memory would gather.
      typename Grid::Tile part;
      part.clear();
      add_to(part);
#pragma unroll
      for (int i = 0; i < Grid::Tile::kRowBlocks; ++i) {
#pragma unroll
        for (int j = 0; j < Grid::Tile::kColumnBlocks; ++j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) state_.values[i][j][e] += part.values[i][j][e];
        }
      }
    } else {
      add_to(state_);
    }
  }

  __device__ void put_state() {
    state_.for_each_pair([&](float a, float b, int p, int n) {
      const float pair[] = {a, b};
      device::store_packed<T, 2>(shared_.state + (row_ + p) * S::kStateRow + column_ + n, pair);
    });
  }
  __device__ void store_state(int step) {
    store_rows<S::kWidth, S::kStates, S::kStateRow>(
        Team<kThreads>{static_cast<int>(threadIdx.x)},
        OutputRows<T>{state_of(step), S::kStates, 1, S::kWidth, S::kStates, true}, shared_.state);
  }

  WalkShared<S>& shared_;
  const BackwardAccess& access_;
};

// A block for every (segment, sequence, unit, direction), directions fastest.
template <class S>
__global__ void __launch_bounds__((S::kWalkWarps + kWalkFetchers) * device::kWarp, 2)
    backward_states_kernel(const __grid_constant__ BackwardParams p,
                           const __grid_constant__ CudaBackwardPlan plan,
                           const __grid_constant__ BackwardAccess access, bool only_sum) {
  extern __shared__ __align__(16) unsigned char memory[];
  const int64_t units = plan.units(p.heads), walks = units * p.sequences.count();
  const int64_t index = blockIdx.x / 2 % walks;
  Walk<S> walk(
      *reinterpret_cast<WalkShared<S>*>(memory), p, plan, access,
      {blockIdx.x % 2 != 0, index / units, index % units, blockIdx.x / 2 / walks, only_sum});
  walk.run();
}

}  // namespace hax::ssd
