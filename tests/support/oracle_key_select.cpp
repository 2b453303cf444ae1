#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

#include "oracle_hash.hpp"
#include "oracle_math.hpp"

namespace hax_test {
namespace {

// Visits every ordered pair (a, b) of used picks of every stream with the score difference, its
// target in {0, 1/2, 1} and the weight of the pair in the loss.
using PairVisitor = std::function<void(int64_t row_a, int64_t row_b, int64_t head,
                                       double difference, double target, double weight)>;

void visit_pairs(const RankingLossArgs& args, const PairVisitor& visit) {
  const auto sequences = sequences_of(args.q, args.cu_seqlens);
  const int64_t heads = args.q.size(2), features = args.q.size(3);
  const size_t streams = sequences.size() * static_cast<size_t>(heads);
  if (args.picks.size() != streams) {
    throw std::invalid_argument("ranking loss: one list of picks per stream");
  }
  const Array q = flat_tokens(args.q), k = flat_tokens(args.k), score = flat_tokens(args.score);
  for (size_t stream = 0; stream < streams; ++stream) {
    const Sequence& seq = sequences[stream / static_cast<size_t>(heads)];
    const int64_t h = static_cast<int64_t>(stream) % heads;
    std::vector<int64_t> rows;
    std::vector<double> attention;  // t_j of every pick
    for (int64_t pick : args.picks[stream]) {
      if (pick < 0) continue;
      const int64_t row = seq.first_row + pick;
      double total = 0.0;
      for (int64_t i = pick; i < seq.length; ++i) {
        double product = 0.0;
        for (int64_t n = 0; n < features; ++n) {
          product += q.at(seq.first_row + i, h, n) * k.at(row, h, n);
        }
        total += sigmoid(product);
      }
      rows.push_back(row);
      attention.push_back(total);
    }
    const double weight = 1.0 / (static_cast<double>(rows.size()) *
                                 static_cast<double>(rows.size()) * static_cast<double>(streams));
    for (size_t a = 0; a < rows.size(); ++a) {
      for (size_t b = 0; b < rows.size(); ++b) {
        const double target =
            (attention[a] > attention[b] ? 0.5 : 0.0) + (attention[a] >= attention[b] ? 0.5 : 0.0);
        visit(rows[a], rows[b], h, score.at(rows[a], h) - score.at(rows[b], h), target, weight);
      }
    }
  }
}

// Whether key a ranks before key b.
bool ranks_before(const std::vector<double>& score, size_t a, size_t b) {
  const bool nan_a = std::isnan(score[a]), nan_b = std::isnan(score[b]);
  if (nan_a != nan_b) return nan_b;
  if (!nan_a && score[a] != score[b]) return score[a] > score[b];
  return a < b;
}

}  // namespace

double oracle_ranking_loss(const RankingLossArgs& args) {
  double loss = 0.0;
  visit_pairs(args, [&](int64_t, int64_t, int64_t, double x, double target, double weight) {
    loss += weight * (softplus(x) - target * x);  // binary cross entropy of the logit x
  });
  return loss;
}

Array oracle_ranking_loss_backward(const RankingLossArgs& args, double dloss) {
  Array dscore = zeros_like(flat_tokens(args.score));
  visit_pairs(args, [&](int64_t a, int64_t b, int64_t h, double x, double target, double weight) {
    const double dx = dloss * weight * (sigmoid(x) - target);
    dscore.at(a, h) += dx;
    dscore.at(b, h) -= dx;
  });
  return dscore.reshape(args.score.shape);
}

std::vector<int64_t> oracle_key_select(const std::vector<double>& score, int64_t budget) {
  const size_t length = score.size();
  std::vector<int64_t> eviction(length);
  for (size_t j = 0; j < length; ++j) {
    int64_t better = 0;  // keys of 0..i that rank before key j
    for (size_t i = 0; i < j; ++i) better += ranks_before(score, i, j) ? 1 : 0;
    size_t i = j;
    while (i < length && better < budget) {
      ++i;
      if (i < length && ranks_before(score, i, j)) ++better;
    }
    eviction[j] = static_cast<int64_t>(i);
  }
  return eviction;
}

}  // namespace hax_test
