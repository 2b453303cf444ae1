// Drives a scan's backward kernel as scan_backward_plan.hpp describes; for *_cpu*.cpp only. A Kernel
// serves one block of channels (or heads) and holds a state and its gradient:
//   Kernel(const Params&, const ScanBlocks&, int64_t block, Workspace& scratch)
//   float* state(), float* dstate()                        state_size floats each
//   void load(float* to, const Tensor&, int64_t offset)    zeros where the tensor is none
//   void store(const Tensor&, int64_t offset, const float* from)
//   void sweep(int64_t row, int64_t token, int64_t count)  takes the state over at most kScanTile tokens
//   void reverse(int64_t row, int64_t token, int64_t count, const float* start, float* shares,
//                double* sums)     takes dstate back over tokens whose first one starts from state `start`
#pragma once

#include "core/parallel.hpp"
#include "core/simd_rows.hpp"
#include "scan/scan_backward_plan.hpp"
#include "scan/scan_checkpoints.hpp"

namespace hax {
inline namespace HAX_CPU_LEVEL_NAME {

// Takes the kernel's state from the first `from` tokens of a sequence to the first `to`, starting at the
// last checkpoint between them if there is one.
template <class Kernel>
void sweep_to(Kernel& kernel, const Checkpoints& checkpoints, const Sequences::Range& range,
              int64_t from, int64_t to) {
  const int64_t checkpoint = checkpoints ? to / checkpoints.every * checkpoints.every : 0;
  if (checkpoint > from) {
    kernel.load(kernel.state(), checkpoints.states, checkpoints.offset(range, checkpoint));
    from = checkpoint;
  }
  for (; from < to; from += kScanTile) {
    kernel.sweep(range.row, range.begin + from, smaller(kScanTile, to - from));
  }
}

HAX_INLINE void copy_floats(float* to, const float* from, int64_t count) {
  std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

template <class Kernel, class Params>
void leave_boundaries(Kernel& kernel, const Params& p, const ScanBackwardPlan& plan, int64_t row,
                      int64_t slot, int64_t block) {
  for (int64_t j = 1; j < plan.segments; ++j) {
    const int64_t token = j * plan.segment;
    const int64_t s = p.sequences.sequence_of(row, token);
    const Sequences::Range range = p.sequences.range(s);
    if (range.begin == token) continue;
    const int64_t known = larger(range.begin, token - plan.segment);
    if (known == range.begin)
      kernel.load(kernel.state(), p.initial_state, p.initial_state.offset(s));
    sweep_to(kernel, p.checkpoints, range, known - range.begin, token - range.begin);
    copy_floats(plan.boundary(slot, block, j), kernel.state(), plan.state_size);
  }
}

// One block's part in segment j of a row.
template <class Kernel, class Params>
class SegmentTask {
 public:
  SegmentTask(Kernel& kernel, const Params& p, const ScanBackwardPlan& plan, float* tile_states,
              int64_t slot, int64_t block, int64_t j)
      : kernel_(kernel),
        p_(p),
        plan_(plan),
        tile_states_(tile_states),
        slot_(slot),
        block_(block),
        j_(j) {}

  void run(int64_t row) {
    const int64_t begin = j_ * plan_.segment;
    const int64_t end = smaller(begin + plan_.segment, p_.sequences.length);
    for (int64_t s = p_.sequences.sequence_of(row, end - 1);; --s) {
      const Sequences::Range range = p_.sequences.range(s);
      const int64_t first = larger(begin, range.begin) - range.begin;
      const int64_t last = smaller(end - range.begin, range.length);
      if (first < last) run_piece(s, range, first, last);
      if (range.begin <= begin) return;
    }
  }

 private:
  // Tokens [first, last) of sequence s.
  void run_piece(int64_t s, const Sequences::Range& range, int64_t first, int64_t last) {
    leave_tile_states(s, range, first, last);
    float* const carry = plan_.carry_of(slot_, block_);
    if (last == range.length) {
      kernel_.load(kernel_.dstate(), p_.dfinal_state, p_.dfinal_state.offset(s));
    } else {
      copy_floats(kernel_.dstate(), carry, plan_.state_size);
    }
    for (int64_t tile = ceil_div(last - first, kScanTile) - 1; tile >= 0; --tile) {
      const int64_t t = first + tile * kScanTile;
      const int64_t token = range.begin + t;
      kernel_.reverse(
          range.row, token, smaller(kScanTile, last - t), tile_states_ + tile * plan_.state_size,
          plan_.share(slot_, block_, token - j_ * plan_.segment), plan_.sums_of(slot_, block_));
    }
    if (first > 0) {
      copy_floats(carry, kernel_.dstate(), plan_.state_size);
    } else if (p_.dinitial_state) {
      kernel_.store(p_.dinitial_state, p_.dinitial_state.offset(s), kernel_.dstate());
    }
  }

  void leave_tile_states(int64_t s, const Sequences::Range& range, int64_t first, int64_t last) {
    if (first == 0) {
      kernel_.load(kernel_.state(), p_.initial_state, p_.initial_state.offset(s));
    } else {
      copy_floats(kernel_.state(), plan_.boundary(slot_, block_, j_), plan_.state_size);
    }
    float* to = tile_states_;
    for (int64_t t = first; t < last; t += kScanTile, to += plan_.state_size) {
      if (t > first) sweep_to(kernel_, p_.checkpoints, range, t - kScanTile, t);
      copy_floats(to, kernel_.state(), plan_.state_size);
    }
  }

  Kernel& kernel_;
  const Params& p_;
  const ScanBackwardPlan& plan_;
  float* tile_states_;
  int64_t slot_, block_, j_;
};

// Adds the blocks' shares of dB and dC for tokens [begin, end) of segment j of a row.
template <class Params>
void add_shares(const Params& p, const ScanBackwardPlan& plan, int64_t slot, int64_t row, int64_t j,
                int64_t group, int64_t begin, int64_t end) {
  const int64_t blocks = plan.blocks.per_group();
  for (int64_t t = begin; t < end; ++t) {
    float sums[2 * kMaxScanStates] = {};
    for (int64_t b = 0; b < blocks; ++b) {
      const float* share = plan.share(slot, group * blocks + b, t);
      for (int64_t i = 0; i < 2 * plan.states; ++i) sums[i] += share[i];
    }
    const int64_t token = j * plan.segment + t;
    if (p.dB) simd::store_row(p.dB, p.dB.offset(row, token, group), sums, plan.states);
    if (p.dC)
      simd::store_row(p.dC, p.dC.offset(row, token, group), sums + plan.states, plan.states);
  }
}

// Sequences without tokens hand the gradient through.
template <class Kernel, class Params>
void backward_empty_sequences(const Params& p, const ScanBackwardPlan& plan) {
  for (int64_t s = 0; s < p.sequences.count() && p.dinitial_state; ++s) {
    if (p.sequences.range(s).length > 0) continue;
    for (int64_t block = 0; block < plan.blocks.count(); ++block) {
      Workspace scratch = plan.scratch.of(0);
      Kernel kernel(p, plan.blocks, block, scratch);
      kernel.load(kernel.dstate(), p.dfinal_state, p.dfinal_state.offset(s));
      kernel.store(p.dinitial_state, p.dinitial_state.offset(s), kernel.dstate());
    }
  }
}

// Everything but what is left to do with plan.sums, which are zeroed first.
template <class Kernel, class Params>
void scan_backward(const Params& p, const ScanBackwardPlan& plan, int num_threads) {
  const int64_t blocks = plan.blocks.count();
  for (int64_t i = 0; i < plan.rows * blocks * plan.sums_size; ++i) plan.sums[i] = 0.0;
  backward_empty_sequences<Kernel>(p, plan);
  for (int64_t first = 0; first < p.sequences.batch; first += plan.rows) {
    const int64_t rows = smaller(plan.rows, p.sequences.batch - first);
    if (plan.segments > 1) {
      parallel_for(num_threads, rows * blocks, [&](int64_t task, int thread) {
        Workspace scratch = plan.scratch.of(thread);
        Kernel kernel(p, plan.blocks, task % blocks, scratch);
        leave_boundaries(kernel, p, plan, first + task / blocks, task / blocks, task % blocks);
      });
    }
    for (int64_t j = plan.segments - 1; j >= 0; --j) {
      parallel_for(num_threads, rows * blocks, [&](int64_t task, int thread) {
        Workspace scratch = plan.scratch.of(thread);
        Kernel kernel(p, plan.blocks, task % blocks, scratch);
        float* tile_states = scratch.take<float>(plan.tiles() * plan.state_size);
        SegmentTask<Kernel, Params> segment(kernel, p, plan, tile_states, task / blocks,
                                            task % blocks, j);
        segment.run(first + task / blocks);
      });
      if (!p.dB && !p.dC) continue;
      constexpr int64_t kChunk = 64;
      const int64_t tokens = smaller(plan.segment, p.sequences.length - j * plan.segment);
      const int64_t chunks = ceil_div(tokens, kChunk);
      const int64_t groups = plan.blocks.groups;
      parallel_for(num_threads, rows * groups * chunks, [&](int64_t task, int) {
        const int64_t slot = task / chunks / groups;
        const int64_t begin = task % chunks * kChunk;
        add_shares(p, plan, slot, first + slot, j, task / chunks % groups, begin,
                   smaller(begin + kChunk, tokens));
      });
    }
  }
}

// One sum over the rows, in order.
HAX_INLINE double total_of(const ScanBackwardPlan& plan, int64_t block, int64_t i) {
  double total = 0.0;
  for (int64_t slot = 0; slot < plan.rows; ++slot) total += plan.sums_of(slot, block)[i];
  return total;
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax
