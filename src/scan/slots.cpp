#include "scan/slots.hpp"

namespace hax {
namespace {

void check_content(const Checker& check, const Slots& slots, int64_t batch, int64_t tokens,
                   int64_t count) {
  for (int64_t b = 0; b < batch; ++b) {
    check.expect(slots.source(b) < count, "src_slots[", b, "]: expected less than slots=", count,
                 ", got ", slots.source(b));
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t slot = slots.destination(b, t, tokens);
      check.expect(slot < count, "dst_slots: sequence ", b, ", token ", t,
                   ": expected less than slots=", count, ", got ", slot);
    }
  }
}

}  // namespace

Slots check_slots(Checker& check, const hax_tensor* src_slots, const hax_tensor* dst_slots,
                  Axis& batch, Axis& tokens, const Axis& slots) {
  Slots result;
  result.src = check.optional_input(src_slots, "src_slots", {Type::int32}, {&batch});
  if (dst_slots && dst_slots->ndim == 2) {
    result.dst = check.input(dst_slots, "dst_slots", {Type::int32}, {&batch, &tokens});
  } else {
    result.dst = check.optional_input(dst_slots, "dst_slots", {Type::int32}, {&batch});
  }
  check.expect(src_slots || slots.value >= batch.value, "state: expected at least B=", batch.value,
               " slots without src_slots, got ", slots.value);
  if (check.on_cpu() && check.needs_data()) {
    check_content(check, result, batch.value, tokens.value, slots.value);
  }
  return result;
}

}  // namespace hax
