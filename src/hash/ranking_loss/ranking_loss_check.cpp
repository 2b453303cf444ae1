#include <cmath>

#include "hash/ranking_loss/ranking_loss.hpp"

namespace hax::ranking_loss {
namespace {

struct Shapes {
  Axis batch{"B"}, heads{"H"}, length{"L"}, features{"N"}, count{"B"}, picks{"M"}, one{"1", 1};
  TypeSlot activation{"q"};
};

void check_positions(const Checker& check, const Inputs& p) {
  for (int64_t s = 0; s < p.sequences.count(); ++s) {
    const int64_t length = p.sequences.range(s).length;
    for (int64_t h = 0; h < p.heads; ++h) {
      for (int64_t m = 0; m < p.picks; ++m) {
        const int64_t pick = *p.pick.at<int32_t>(s, h, m);
        check.expect(pick < length, "pick[", s, ", ", h, ", ", m,
                     "]: expected a position in a sequence of ", length,
                     " tokens, or a negative number for none, got ", pick);
      }
    }
  }
}

template <class Args>
void check_inputs(Checker& check, const Args& args, Shapes& s, Inputs& p) {
  p.score = check.input(args.score, "score", {Type::fp32}, {&s.batch, &s.heads, &s.length});
  p.sequences = check.sequences(args.cu_seqlens, s.batch, s.length);
  if (p.sequences.packed()) s.count.name = "S";
  s.count.value = p.sequences.count();
  p.pick = check.input(args.pick, "pick", {Type::int32}, {&s.count, &s.heads, &s.picks});
  p.heads = s.heads.value;
  p.picks = s.picks.value;
  p.device = check.device();
  if (check.on_cpu() && check.needs_data()) check_positions(check, p);
}

}  // namespace

ForwardParams Forward::check(Checker& check, const Args& args) {
  Shapes s;
  ForwardParams p;
  p.q = check.input(args.q, "q", s.activation, {&s.batch, &s.length, &s.heads, &s.features});
  check.range(s.features, 1, kMaxFeatures);
  p.k = check.input(args.k, "k", s.activation, {&s.batch, &s.length, &s.heads, &s.features});
  check_inputs(check, args, s, p);
  p.loss = check.output(args.loss, "loss", {Type::fp32}, {&s.one});
  p.target =
      check.optional_output(args.target, "target", {Type::fp32}, {&s.count, &s.heads, &s.picks});
  check.expect(std::isfinite(args.k_scale) && args.k_scale != 0.0f,
               "k_scale: expected a finite number other than 0, got ", args.k_scale);
  p.features = s.features.value;
  p.k_scale = args.k_scale;
  return p;
}

BackwardParams Backward::check(Checker& check, const Args& args) {
  Shapes s;
  BackwardParams p;
  check_inputs(check, args, s, p);
  p.target = check.input(args.target, "target", {Type::fp32}, {&s.count, &s.heads, &s.picks});
  p.dloss = check.input(args.dloss, "dloss", {Type::fp32}, {&s.one});
  p.dscore = check.output(args.dscore, "dscore", {Type::fp32}, {&s.batch, &s.heads, &s.length});
  return p;
}

}  // namespace hax::ranking_loss
