// Backward of the selective scan. A block goes through a segment's tiles from the last to the first: its threads
// over a tile's elements, its warps over their states, threads over the elements again.
#pragma once

#include "device/flag.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_finish.cuh"
#include "scan/selective_scan/selective_scan_kernel_backward_gather.cuh"

namespace hax::selective_scan {

template <class S>
class BackwardBlock {
 public:
  __device__ BackwardBlock(BackwardShared<S>& shared, const BackwardParams& p,
                           const CudaBackwardPlan& plan, const Work& work, int64_t slice,
                           bool first_of_slice)
      : shared_(shared),
        p_(p),
        plan_(plan),
        block_(shared.tile.work.channels),
        row_(shared.tile.work.row),
        segment_(shared.tile.work.part),
        begin_(shared.tile.work.begin),
        first_of_slice_(first_of_slice) {
    ready_tiles(shared.tile, p, work);
    load_rates(rate_, p, work.channels, place());
    shared.staged.clear();
    clear_rows<S>(shared.rows);
    if (thread_index() == 0) {
      const int64_t token = (slice * p.batch + work.row) * p.length + work.begin;
      shared.shares = plan.shares + (token * p.groups + work.channels.group) * 2 * p.states;
    }
    __syncthreads();
  }

  __device__ void run() {
    const int64_t end = min(begin_ + plan_.segment, p_.length);
    int64_t stop = end;
    for (int64_t s = p_.sequences.sequence_of(row_, end - 1); stop > begin_; --s) {
      const Sequences::Range range = p_.sequences.range(s);
      if (range.length == 0) continue;
      if (stop == range.begin + range.length) {
        load_states(dh_, p_.dfinal_state, p_.dfinal_state.offset(s), block_, place(), p_.states);
      } else {
        gather_gradients(range);
      }
      piece(s, range, stop);
      if (p_.dinitial_state && begin_ <= range.begin) {
        store_states(dh_, p_.dinitial_state, p_.dinitial_state.offset(s), block_, place(),
                     p_.states);
      }
      if (plan_.turns && range.begin < begin_) hand_over();
      stop = range.begin;
    }
    if constexpr (S::kPacked) {
      const unsigned thread = thread_index();
      unpack_numbers(dA_, shared_.staged.dA[0][thread], shared_.staged.dA[1][thread]);
    }
    store_sums(shared_, p_, plan_, dA_);
  }

 private:
  using Piece = typename BackwardShared<S>::Piece;

  __device__ LanePlace place() const { return LanePlace(S::state_tiles(plan_)); }
  __device__ int64_t row_segment(int64_t segment) const { return row_ * plan_.segments + segment; }

  // The flag that a segment may start.
  __device__ int* flag(int64_t segment) const {
    return plan_.handed_over + row_segment(segment) * p_.groups * plan_.per_group + block_.index;
  }
  __device__ void wait_for_neighbour() const {
    if (threadIdx.x == 0) device::wait_for_flag(flag(segment_));
    __syncthreads();
  }
  // What comes into the segment's end: from the segment behind, or from what each of those behind gives.
  __device__ void gather_gradients(const Sequences::Range& range) {
    const LanePlace own = place();
    if (plan_.turns) {
      wait_for_neighbour();
      // Not through a cache that may hold what lay there before.
      load_numbers_fresh(
          dh_, plan_.adjoints + numbers_place<S>(plan_, row_segment(segment_), block_.index, own));
      return;
    }
    gather_adjoints<S>(dh_, plan_, row_segment(segment_),
                       (range.begin + range.length - 1) / plan_.segment - segment_, block_.index,
                       own);
  }

  // Gives the gradient of the state before the segment to the segment before.
  __device__ void hand_over() {
    store_numbers(
        plan_.adjoints + numbers_place<S>(plan_, row_segment(segment_ - 1), block_.index, place()),
        dh_);
    __syncthreads();
    if (threadIdx.x == 0) device::set_flag(flag(segment_ - 1));
  }

  // What the segment has of sequence s up to token `stop`, in tiles from its first token in the segment on.
  __device__ void piece(int64_t s, const Sequences::Range& range, int64_t stop) {
    const bool starts = begin_ <= range.begin;
    const int from = starts ? static_cast<int>(range.begin - begin_) : 0;
    const int to = static_cast<int>(stop - begin_), channels = block_.count;
    const bool carried = range.begin < segment_ / plan_.walk * plan_.walk * plan_.segment;
    __syncthreads();  // the piece before may still be in use
    if (threadIdx.x == 0) shared_.piece = piece_of(from, starts, carried);
    __syncthreads();
    int index = (to - 1 - from) / S::kTile;
    Tile tile = {from + index * S::kTile, to - from - index * S::kTile};
    fetch(tile, index, channels, index > 0 || !starts);
    device::commit_copies();
    if (carried) {
      gather_states<S>(plan_, row_, segment_, range.begin / plan_.segment / plan_.walk,
                       block_.index, place());
    }
    std::conditional_t<S::kPacked, RawElements, int> raw;
    if constexpr (S::kPacked) load_packed(raw, shared_.tile, p_, tile, channels, true);
    device::wait_for_copies<0>();
    __syncthreads();
#pragma unroll 1
    for (;;) {
      float h[8];
      // What a piece is, is not kept from tile to tile, as registers are short.
      if (index == 0 && shared_.piece.starts) {
        load_states(h, p_.initial_state, p_.initial_state.offset(s), block_, place(), p_.states);
      } else {
        load_start(h, index);
      }
      Carry carry;  // on its way while elements are staged
      const bool comes_in = shared_.piece.carry != nullptr;
      if (comes_in) {
        const int64_t of_tile = p_.groups * plan_.per_group * plan_.width;
        carry.load(shared_.piece.carry, shared_.piece.elapsed + index * of_tile, place());
      }
      PackedScales scales;
      if constexpr (S::kPacked) {
        stage_packed(scales, shared_.tile, p_, tile, raw, true,
                     [&](const LanePlace& place, const Elements& e) {
                       shared_.staged.keep(place, raw, e, scales, index % 2);
                     });
      } else {
        stage_elements(shared_.tile, p_, plan_, tile, channels, true,
                       [&](const ElementPlace<S>& place, const Elements& e) {
                         keep_elements(shared_, place, e, index % 2);
                       });
      }
      stage_rows<S>(shared_.rows[0], shared_.tile, p_, tile, true, thread_index(), S::kThreads);
      if (comes_in) carry.add_to(h, rate_);
      __syncthreads();  // all are done with the tile behind, too
      if (index > 0) {
        fetch({tile.first - S::kTile, S::kTile}, index - 1, channels,
              index > 1 || !shared_.piece.starts);
      }
      device::commit_copies();
      const LanePlace own = place();
      const auto& rows = shared_.rows[S::kVectors ? index % 2 : 0];
      auto& memory = shared_.warps[own.warp];
      if constexpr (S::kPacked) {
        Products<S> products(rows, own, scales);
        float dA[8];  // the tile's
        scan_tile_back<S>(products, shared_.tile, memory, own, rate_, h, dh_, dA, [&] {
          load_packed(raw, shared_.tile, p_, {tile.first - S::kTile, index > 0 ? S::kTile : 0},
                      channels, true);
        });
        shared_.staged.add_dA(dA);
        device::wait_for_copies<0>();
        finish_packed(shared_.staged, shared_.tile, p_, tile, channels, products, scales);
      } else {
        Products<S> products(shared_.tile, rows, own);
        scan_tile_back<S>(products, shared_.tile, memory, own, rate_, h, dh_, dA_, [] {});
        device::wait_for_copies<0>();
        S::sync();
        finish_elements(shared_, p_, plan_, tile, channels);
      }
      if (S::kAlone) __syncthreads();
      if (plan_.shares) flush_shares(shared_, p_, plan_, tile, index % 2, first_of_slice_);
      if (index == 0) break;
      --index;
      tile = {tile.first - S::kTile, S::kTile};
    }
  }

  __device__ Piece piece_of(int from, bool starts, bool carried) const {
    Piece piece = {};
    piece.starts = starts;
    const int64_t slot = row_ * plan_.slots + (begin_ + from) / S::kTile;
    piece.states = static_cast<const StartNumber<S>*>(plan_.states) + slot * plan_.numbers +
                   block_.index * S::kWarps * kWarpNumbers;
    if (carried) {
      piece.elapsed =
          plan_.elapsed + (slot * p_.groups * plan_.per_group + block_.index) * plan_.width;
      piece.carry = plan_.carried + row_segment(segment_) * plan_.numbers +
                    block_.index * S::kWarps * kWarpNumbers;
    }
    return piece;
  }

  // Begins to bring the piece's tile `index`; `state`: also that before it.
  __device__ void fetch(const Tile& tile, int index, int channels, bool state) {
    if (!S::kPacked) fetch_elements(shared_.tile, p_, plan_, tile, channels, true);
    fetch_rows<S>(shared_.rows[S::kVectors ? index % 2 : 0], shared_.tile, p_, plan_, tile, true,
                  thread_index(), S::kThreads);
    if (S::kVectors && state) {
      const LanePlace own = place();
#pragma unroll
      for (int i = 0; i < kStartVectors<S>; ++i) {
        device::copy_async_16(&shared_.next[i][own.thread], start_of(index, own) + i * kDistance);
      }
    }
  }
  // From a lane's first vector of numbers where tiles start to its second.
  static constexpr int kDistance = 16 / sizeof(StartNumber<S>) * device::kWarp;
  __device__ const StartNumber<S>* start_of(int index, const LanePlace& own) const {
    return shared_.piece.states + index * plan_.numbers + own.warp * kWarpNumbers +
           own.lane * (kDistance / device::kWarp);
  }
  __device__ void load_start(float (&h)[8], int index) const {
    const LanePlace own = place();
    if constexpr (S::kVectors) {
      const auto* const from = &shared_.next[0][own.thread];
      selective_scan::load_start<S>(h, reinterpret_cast<const StartNumber<S>*>(from),
                                    kDistance * S::kWarps);
    } else {
      selective_scan::load_start<S>(h, start_of(index, own), kDistance);
    }
  }

  BackwardShared<S>& shared_;
  const BackwardParams& p_;
  const CudaBackwardPlan& plan_;
  const ChannelBlock& block_;
  const int64_t &row_, &segment_, &begin_;
  const bool first_of_slice_;
  float rate_[8], dh_[8], dA_[8] = {};
};

// A block for every (segment, row, group, slice), the last segments first, slices fastest. Where segments wait
// for each other blocks take turns as they start, so that those waited for are on their way.
template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksAtOnce)
    backward_kernel(const __grid_constant__ BackwardParams p,
                    const __grid_constant__ CudaBackwardPlan plan) {
  extern __shared__ __align__(16) unsigned char memory[];
  static_assert(sizeof(BackwardShared<S>) <= 99 * 1024 - 64, "some GPUs have 99 KiB");
  auto& shared = *reinterpret_cast<BackwardShared<S>*>(memory);
  int64_t turn = blockIdx.x;
  if (plan.turns) {
    __shared__ int own_turn;
    if (threadIdx.x == 0) own_turn = atomicAdd(plan.turns, 1);
    __syncthreads();
    turn = own_turn;
  }
  const int64_t slice = turn % plan.slices, rest = turn / plan.slices;
  const int64_t group = rest % p.groups, row = rest / p.groups % p.batch;
  const int64_t segment = plan.segments - 1 - rest / p.groups / p.batch;
  for (int64_t i = slice; i < plan.per_group; i += plan.slices) {
    const Work work = {channel_block(p, plan, group * plan.per_group + i), row, segment,
                       segment * plan.segment};
    BackwardBlock<S>(shared, p, plan, work, slice, i == slice).run();
  }
}

}  // namespace hax::selective_scan
