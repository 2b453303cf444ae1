#include "hash/lsh_hash/lsh_hash.hpp"

namespace hax::lsh_hash {

Params Forward::check(Checker& check, const Args& args) {
  Axis batch{"B"}, length{"L"}, heads{"H"}, features{"N"}, bits{"num_bits"};
  TypeSlot activation{"x"};
  Params p;
  p.x = check.input(args.x, "x", activation, {&batch, &length, &heads, &features});
  check.range(features, 1, kMaxFeatures);
  p.R = check.input(args.R, "R", {Type::fp32}, {&features, &bits});
  check.range(bits, 1, kMaxBits);
  p.code = check.output(args.code, "code", {Type::int64}, {&batch, &heads, &length});
  check.supported(
      args.statistics >= HAX_LSH_STATISTICS_NONE && args.statistics <= HAX_LSH_STATISTICS_CAUSAL,
      "statistics: expected HAX_LSH_STATISTICS_NONE (0), SEQUENCE (1) or CAUSAL (2), got ",
      args.statistics);
  p.statistics = args.statistics;
  p.sequences = check.sequences(args.cu_seqlens, batch, length, args.max_seqlen);
  p.heads = heads.value;
  p.features = features.value;
  p.bits = bits.value;
  p.device = check.device();
  return p;
}

}  // namespace hax::lsh_hash
