// States inside a sequence that a scan's forward leaves behind and its backward can start from.
#pragma once

#include "core/check.hpp"
#include "core/tensor.hpp"

namespace hax {

struct Checkpoints {
  Tensor states;  // (B, floor(L / every), state...); none: there are no checkpoints
  int64_t every = 0;

  HAX_EVERYWHERE explicit operator bool() const { return static_cast<bool>(states); }

  // First token count behind `t` that a checkpoint or `end` falls on.
  HAX_EVERYWHERE int64_t next_stop(int64_t t, int64_t end) const {
    if (!states) return end;
    const int64_t next = t / every * every + every;
    return next < end ? next : end;
  }

  // Offset of the state after the first `tokens` tokens (a multiple of `every`) of a sequence.
  HAX_EVERYWHERE int64_t offset(const Sequences::Range& range, int64_t tokens) const {
    return states.offset(range.row, range.begin / every + tokens / every - 1);
  }
};

// Validates the pair of arguments; `bind` turns the tensor into a view given its first two axes.
template <class Bind>
Checkpoints check_checkpoints(Checker& check, const hax_tensor* states, int64_t every, Axis& batch,
                              const Axis& length, Bind&& bind) {
  Checkpoints result;
  if (!states) {
    check.expect(every == 0, "checkpoint_every: expected 0 without checkpoints, got ", every);
    return result;
  }
  check.expect(every >= 1, "checkpoint_every: expected at least 1 beside checkpoints, got ", every);
  Axis count{"L/checkpoint_every", length.value / every};
  result.every = every;
  result.states = bind(batch, count);
  return result;
}

}  // namespace hax
