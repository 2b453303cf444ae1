// Drives a scan's kernel over sequences, forward and step; for *_cpu*.cpp only. A Kernel serves one block
// of channels (or heads) and holds its state:
//   Kernel(const Params&, const ScanBlocks&, int64_t block, Workspace& scratch)
//   void load_state(const Tensor& states, int64_t offset); the state 0 where `states` is none
//   void store_state(const Tensor& states, int64_t offset)
//   void forward(int64_t row, int64_t token, int64_t count)   at most kScanTile tokens; writes y
#pragma once

#include "core/parallel.hpp"
#include "scan/scan_blocks.hpp"
#include "scan/scan_checkpoints.hpp"
#include "scan/slots.hpp"

namespace hax {
inline namespace HAX_CPU_LEVEL_NAME {

template <class Kernel, class Params>
void scan_sequence(Kernel& kernel, const Params& p, int64_t s) {
  const Sequences::Range range = p.sequences.range(s);
  const Checkpoints& checkpoints = p.checkpoints;
  kernel.load_state(p.initial_state, p.initial_state.offset(s));
  for (int64_t t = 0; t < range.length;) {
    const int64_t stop = checkpoints.next_stop(t, range.length);
    const int64_t count = smaller(kScanTile, stop - t);
    kernel.forward(range.row, range.begin + t, count);
    t += count;
    if (checkpoints && t % checkpoints.every == 0) {
      kernel.store_state(checkpoints.states, checkpoints.offset(range, t));
    }
  }
  if (p.final_state) kernel.store_state(p.final_state, p.final_state.offset(s));
}

template <class Kernel, class Params>
void scan_forward(const Params& p, const ScanForwardPlan& plan, int num_threads) {
  const int64_t blocks = plan.blocks.count();
  parallel_for(num_threads, p.sequences.count() * blocks, [&](int64_t task, int thread) {
    Workspace scratch = plan.scratch.of(thread);
    Kernel kernel(p, plan.blocks, task % blocks, scratch);
    scan_sequence(kernel, p, task / blocks);
  });
}

template <class Kernel, class Params>
void step_sequence(Kernel& kernel, const Params& p, int64_t b) {
  const int64_t source = p.slots.source(b);
  if (source < 0) return;
  const bool every_token = p.slots.dst && p.slots.dst.ndim == 2;
  kernel.load_state(p.state, p.state.offset(source));
  for (int64_t t = 0; t < p.tokens;) {
    const int64_t count = every_token ? 1 : smaller(kScanTile, p.tokens - t);
    kernel.forward(b, t, count);
    t += count;
    const int64_t slot = p.slots.destination(b, t - 1, p.tokens);
    if (slot >= 0) kernel.store_state(p.state, p.state.offset(slot));
  }
}

template <class Kernel, class Params>
void scan_step(const Params& p, const ScanForwardPlan& plan, int num_threads) {
  const int64_t blocks = plan.blocks.count();
  parallel_for(num_threads, p.batch * blocks, [&](int64_t task, int thread) {
    Workspace scratch = plan.scratch.of(thread);
    Kernel kernel(p, plan.blocks, task % blocks, scratch);
    step_sequence(kernel, p, task / blocks);
  });
}

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax
