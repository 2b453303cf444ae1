#include <limits>

#include "hash/lsh_bucket/lsh_bucket.hpp"

namespace hax::lsh_bucket {
namespace {

void check_codes(const Checker& check, const Tensor& code, const char* name, int num_bits) {
  const uint64_t limit = uint64_t{1} << num_bits;
  for (int64_t b = 0; b < code.shape[0]; ++b) {
    for (int64_t h = 0; h < code.shape[1]; ++h) {
      for (int64_t t = 0; t < code.shape[2]; ++t) {
        const int64_t value = *code.at<int64_t>(b, h, t);
        if (static_cast<uint64_t>(value) < limit) continue;
        check.fail_with(HAX_ERROR_INVALID_ARGUMENT, name, "[", b, ", ", h, ", ", t,
                        "]: expected 0 to 2^num_bits - 1 = ", limit - 1, ", got ", value);
      }
    }
  }
}

}  // namespace

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
  p.sequences = check.sequences(args.cu_seqlens, batch, length);
  p.query_heads = query_heads.value;
  p.key_heads = key_heads.value;
  p.num_bits = args.num_bits;
  p.budget = args.budget;
  p.device = check.device();
  if (check.on_cpu() && check.needs_data()) {
    check_codes(check, p.code_q, "code_q", p.num_bits);
    check_codes(check, p.code_k, "code_k", p.num_bits);
  }
  return p;
}

}  // namespace hax::lsh_bucket
