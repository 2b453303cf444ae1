#include <limits>

#include "hash/lsh_bucket/lsh_bucket.hpp"

namespace hax::lsh_bucket {

Params Forward::check(Checker& check, const Args& args) {
  Axis batch{"B"}, length{"L"}, query_heads{"Hq"}, key_heads{"Hk"};
  Params p;
  p.code_q = check.input(args.code_q, "code_q", {Type::int64}, {&batch, &query_heads, &length});
  p.code_k = check.input(args.code_k, "code_k", {Type::int64}, {&batch, &key_heads, &length});
  check.divides(key_heads, query_heads);
  check.range(length, 0, std::numeric_limits<int32_t>::max());
  p.key_order =
      check.output(args.key_order, "key_order", {Type::int32}, {&batch, &key_heads, &length});
  p.begin = check.output(args.begin, "begin", {Type::int32}, {&batch, &query_heads, &length});
  p.end = check.output(args.end, "end", {Type::int32}, {&batch, &query_heads, &length});
  check.expect(args.num_bits >= 1 && args.num_bits <= 63, "num_bits: expected 1 to 63, got ",
               args.num_bits);
  check.expect(args.budget >= 1, "budget: expected at least 1, got ", args.budget);
  p.sequences = check.sequences(args.cu_seqlens, batch, length, args.max_seqlen);
  p.query_heads = query_heads.value;
  p.key_heads = key_heads.value;
  p.num_bits = args.num_bits;
  p.budget = args.budget;
  p.device = check.device();
  return p;
}

}  // namespace hax::lsh_bucket
