#include <algorithm>
#include <cmath>

#include "oracle_hash.hpp"
#include "oracle_math.hpp"

namespace hax_test {
namespace {

constexpr double kMinNorm = 1e-12;

Array relu(const Array& x) {
  Array y = x;
  for (double& value : y.data) value = std::max(value, 0.0);
  return y;
}

void mask_by_relu(Array& dy, const Array& preactivation) {
  for (size_t i = 0; i < dy.data.size(); ++i) {
    if (preactivation.data[i] <= 0.0) dy.data[i] = 0.0;
  }
}

struct Activations {
  Array input, before1, hidden1, before2, hidden2;
};

Activations run_mlp(const KeyScoreArgs& args) {
  Activations a;
  a.input = concat_axis({args.k, oracle_summed_query(args)}, -1);
  a.before1 = linear(a.input, args.w1, args.b1);
  a.hidden1 = relu(a.before1);
  a.before2 = linear(a.hidden1, args.w2, args.b2);
  a.hidden2 = relu(a.before2);
  return a;
}

}  // namespace

Array oracle_summed_query(const KeyScoreArgs& args) {
  const int64_t heads = args.q.size(2), features = args.q.size(3);
  Array sum = flat_tokens(args.q);
  for (const Sequence& seq : sequences_of(args.q, args.cu_seqlens)) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t t = 1; t < seq.length; ++t) {
        const int64_t row = seq.first_row + t;
        for (int64_t n = 0; n < features; ++n) sum.at(row, h, n) += sum.at(row - 1, h, n);
      }
    }
  }
  Array normalized = sum;
  for (const Sequence& seq : sequences_of(args.q, args.cu_seqlens)) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t t = 0; t < seq.length; ++t) {
        const int64_t row = seq.first_row + t;
        for (int64_t n = 0; n < features; ++n) {
          double squares = 0.0;
          if (args.normalization == QueryNormalization::kFeature) {
            for (int64_t m = 0; m < features; ++m) squares += std::pow(sum.at(row, h, m), 2);
          } else {
            for (int64_t r = 0; r < seq.length; ++r) {
              squares += std::pow(sum.at(seq.first_row + r, h, n), 2);
            }
          }
          normalized.at(row, h, n) /= std::max(std::sqrt(squares), kMinNorm);
        }
      }
    }
  }
  return normalized.reshape(args.q.shape);
}

Array oracle_key_score(const KeyScoreArgs& args) {
  const Array score = linear(run_mlp(args).hidden2, args.w3, args.b3);
  return score.reshape({args.k.size(0), args.k.size(1), args.k.size(2)});
}

KeyScoreGrads oracle_key_score_backward(const KeyScoreArgs& args, const Array& dscore) {
  const Activations a = run_mlp(args);
  LinearGrads third = linear_backward(a.hidden2, args.w3, dscore);
  mask_by_relu(third.dx, a.before2);
  LinearGrads second = linear_backward(a.hidden1, args.w2, third.dx);
  mask_by_relu(second.dx, a.before1);
  const LinearGrads first = linear_backward(a.input, args.w1, second.dx);
  return {first.dw, first.dbias, second.dw, second.dbias, third.dw, third.dbias};
}

}  // namespace hax_test
