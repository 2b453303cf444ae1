#include <limits>

#include "hash/key_select/key_select.hpp"

namespace hax::key_select {

Params Forward::check(Checker& check, const Args& args) {
  Axis batch{"B"}, length{"L"}, heads{"H"};
  Params p;
  p.score = check.input(args.score, "score", {Type::fp32}, {&batch, &heads, &length});
  check.range(length, 0, std::numeric_limits<int32_t>::max());
  p.eviction = check.output(args.eviction, "eviction", {Type::int32}, {&batch, &heads, &length});
  check.expect(args.budget >= 1, "budget: expected at least 1, got ", args.budget);
  p.sequences = check.sequences(args.cu_seqlens, batch, length, args.max_seqlen);
  p.heads = heads.value;
  p.budget = args.budget;
  p.device = check.device();
  return p;
}

}  // namespace hax::key_select
