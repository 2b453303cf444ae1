#include <cmath>

#include "hash/key_score/key_score.hpp"

namespace hax::key_score {
namespace {

struct Shapes {
  Axis batch{"B"}, length{"L"}, heads{"H"}, features{"N"}, width{"2N"}, one{"1", 1};
  TypeSlot activation{"q"};
};

// Everything that the args of forward and backward have in common.
template <class Args>
void check_inputs(Checker& check, const Args& args, Shapes& s, Inputs& p) {
  p.q = check.input(args.q, "q", s.activation, {&s.batch, &s.length, &s.heads, &s.features});
  check.range(s.features, 1, kMaxFeatures);
  s.width.value = 2 * s.features.value;
  const TypeRule weight{s.activation, Type::fp32};
  p.k = check.input(args.k, "k", s.activation, {&s.batch, &s.length, &s.heads, &s.features});
  p.W1 = check.input(args.W1, "W1", weight, {&s.width, &s.width});
  p.b1 = check.input(args.b1, "b1", {Type::fp32}, {&s.width});
  p.W2 = check.input(args.W2, "W2", weight, {&s.width, &s.width});
  p.b2 = check.input(args.b2, "b2", {Type::fp32}, {&s.width});
  p.W3 = check.input(args.W3, "W3", weight, {&s.one, &s.width});
  p.b3 = check.input(args.b3, "b3", {Type::fp32}, {&s.one});
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length, args.max_seqlen);
  check.expect(std::isfinite(args.k_scale) && args.k_scale != 0.0f,
               "k_scale: expected a finite number other than 0, got ", args.k_scale);
  check.supported(args.normalization == HAX_KEY_SCORE_NORM_FEATURE ||
                      args.normalization == HAX_KEY_SCORE_NORM_SEQUENCE,
                  "normalization: expected HAX_KEY_SCORE_NORM_FEATURE (0) or SEQUENCE (1), got ",
                  args.normalization);
  p.sequence_norm = args.normalization == HAX_KEY_SCORE_NORM_SEQUENCE;
  p.k_scale = args.k_scale;
  p.heads = s.heads.value;
  p.features = s.features.value;
  p.device = check.device();
}

}  // namespace

ForwardParams Forward::check(Checker& check, const Args& args) {
  Shapes s;
  ForwardParams p;
  check_inputs(check, args, s, p);
  p.score = check.output(args.score, "score", {Type::fp32}, {&s.batch, &s.heads, &s.length});
  return p;
}

BackwardParams Backward::check(Checker& check, const Args& args) {
  Shapes s;
  BackwardParams p;
  check_inputs(check, args, s, p);
  p.dscore = check.input(args.dscore, "dscore", {Type::fp32}, {&s.batch, &s.heads, &s.length});
  p.dW1 = check.optional_output(args.dW1, "dW1", {Type::fp32}, {&s.width, &s.width});
  p.db1 = check.optional_output(args.db1, "db1", {Type::fp32}, {&s.width});
  p.dW2 = check.optional_output(args.dW2, "dW2", {Type::fp32}, {&s.width, &s.width});
  p.db2 = check.optional_output(args.db2, "db2", {Type::fp32}, {&s.width});
  p.dW3 = check.optional_output(args.dW3, "dW3", {Type::fp32}, {&s.one, &s.width});
  p.db3 = check.optional_output(args.db3, "db3", {Type::fp32}, {&s.one});
  check.flag(args.deterministic, "deterministic");
  return p;
}

}  // namespace hax::key_score
