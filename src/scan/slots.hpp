// Slots of a state pool, which the step functions of all scans read and write.
#pragma once

#include "core/check.hpp"
#include "core/tensor.hpp"

namespace hax {

struct Slots {
  Tensor src;  // none: sequence b starts from slot b
  Tensor dst;  // none: the state goes back where it came from

  // Whether src names the slots that sequences start from.
  HAX_EVERYWHERE bool named() const { return static_cast<bool>(src); }

  // Slot sequence b starts from; negative: a padding entry.
  HAX_EVERYWHERE int64_t source(int64_t b) const { return src ? *src.at<int32_t>(b) : b; }

  // Slot that receives sequence b's state after token t of `tokens`; negative: none.
  HAX_EVERYWHERE int64_t destination(int64_t b, int64_t t, int64_t tokens) const {
    if (dst && dst.ndim == 2) return *dst.at<int32_t>(b, t);
    if (t + 1 < tokens) return -1;
    return dst ? *dst.at<int32_t>(b) : source(b);
  }
};

// Validates src_slots and dst_slots against B sequences of T tokens and a pool of `slots` states; on
// the CPU their content too, unless this is a workspace query.
Slots check_slots(Checker& check, const hax_tensor* src_slots, const hax_tensor* dst_slots,
                  Axis& batch, Axis& tokens, const Axis& slots);

}  // namespace hax
