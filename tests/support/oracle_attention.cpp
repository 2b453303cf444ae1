#include "oracle_attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "oracle_hash.hpp"

namespace hax_test {
namespace {

template <class Predicate>
Selection select_where(int64_t length, Predicate chosen) {
  Selection s(length);
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      if (chosen(i, j)) s.select(i, j);
    }
  }
  return s;
}

// One query head of one sequence.
struct Stream {
  Sequence seq;
  int64_t head, kv_head;
  const Selection& selection;
};

struct Problem {
  explicit Problem(const AttentionArgs& a)
      : args(a), q(flat_tokens(a.q)), k(flat_tokens(a.k)), v(flat_tokens(a.v)) {
    const auto sequences = sequences_of(a.q, a.cu_seqlens);
    const int64_t heads = a.q.size(2), kv_heads = a.k.size(2);
    if (a.selections.size() != sequences.size() * static_cast<size_t>(heads)) {
      throw std::invalid_argument("oracle_attention: one selection per sequence and query head");
    }
    for (size_t s = 0; s < sequences.size(); ++s) {
      for (int64_t h = 0; h < heads; ++h) {
        const Selection& selection = a.selections[s * static_cast<size_t>(heads) + h];
        if (selection.length() != sequences[s].length) {
          throw std::invalid_argument("oracle_attention: selection length differs from sequence");
        }
        streams.push_back({sequences[s], h, h / (heads / kv_heads), selection});
      }
    }
  }

  double logit(const Stream& s, int64_t i, int64_t j) const {
    double sum = 0.0;
    for (int64_t c = 0; c < q.size(2); ++c) {
      sum += q.at(s.seq.first_row + i, s.head, c) * k.at(s.seq.first_row + j, s.kv_head, c);
    }
    return args.scale * sum;
  }

  // Softmax weights of row i over all positions (0 where not selected), and its log-sum-exp.
  double softmax_row(const Stream& s, int64_t i, std::vector<double>& weight) const {
    constexpr double kNone = -std::numeric_limits<double>::infinity();
    weight.assign(static_cast<size_t>(s.seq.length), kNone);
    double largest = kNone;
    for (int64_t j = 0; j < s.seq.length; ++j) {
      if (!s.selection.at(i, j)) continue;
      weight[static_cast<size_t>(j)] = logit(s, i, j);
      largest = std::max(largest, weight[static_cast<size_t>(j)]);
    }
    if (s.selection.row_empty(i)) {
      weight.assign(static_cast<size_t>(s.seq.length), 0.0);
      return kNone;
    }
    double sum = 0.0;
    for (double& w : weight) {
      w = std::exp(w - largest);
      sum += w;
    }
    for (double& w : weight) w /= sum;
    return largest + std::log(sum);
  }

  const AttentionArgs& args;
  Array q, k, v;
  std::vector<Stream> streams;
};

}  // namespace

void Selection::unite(const Selection& other) {
  if (other.length_ != length_) throw std::invalid_argument("Selection::unite: lengths differ");
  for (size_t i = 0; i < chosen_.size(); ++i) chosen_[i] |= other.chosen_[i];
}

bool Selection::row_empty(int64_t i) const {
  const auto row = chosen_.begin() + i * length_;
  return std::all_of(row, row + length_, [](uint8_t c) { return c == 0; });
}

Selection select_full(int64_t length) {
  return select_where(length, [](int64_t, int64_t) { return true; });
}

Selection select_sliding_window(int64_t length, int64_t window) {
  return select_where(length, [=](int64_t i, int64_t j) { return i - j < window; });
}

Selection select_sink(int64_t length, int64_t sink) {
  return select_where(length, [=](int64_t, int64_t j) { return j < sink; });
}

Selection select_dilated(int64_t length, int64_t dilation) {
  return select_where(length, [=](int64_t, int64_t j) { return j % dilation == dilation - 1; });
}

Selection select_lsh(const std::vector<uint64_t>& codes_q, const std::vector<uint64_t>& codes_k,
                     int64_t budget) {
  Selection s(static_cast<int64_t>(codes_q.size()));
  const auto candidates = oracle_lsh_candidates(codes_q, codes_k, budget);
  for (size_t i = 0; i < candidates.size(); ++i) {
    for (int64_t j : candidates[i]) s.select(static_cast<int64_t>(i), j);
  }
  return s;
}

Selection select_by_eviction(const std::vector<int64_t>& eviction) {
  return select_where(static_cast<int64_t>(eviction.size()),
                      [&](int64_t i, int64_t j) { return i < eviction[static_cast<size_t>(j)]; });
}

AttentionResult oracle_attention(const AttentionArgs& args) {
  const Problem p(args);
  const int64_t heads = args.q.size(2), length = args.q.size(1);
  Array o({p.q.size(0), heads, p.v.size(2)});
  Array lse({args.q.size(0), heads, length});
  std::vector<double> weight;
  for (const Stream& s : p.streams) {
    for (int64_t i = 0; i < s.seq.length; ++i) {
      const int64_t row = s.seq.first_row + i;
      lse.at(row / length, s.head, row % length) = p.softmax_row(s, i, weight);
      for (int64_t j = 0; j < s.seq.length; ++j) {
        if (!s.selection.at(i, j)) continue;
        for (int64_t c = 0; c < p.v.size(2); ++c) {
          o.at(row, s.head, c) +=
              weight[static_cast<size_t>(j)] * p.v.at(s.seq.first_row + j, s.kv_head, c);
        }
      }
    }
  }
  return {o.reshape({args.q.size(0), length, heads, p.v.size(2)}), lse};
}

AttentionGrads oracle_attention_backward(const AttentionArgs& args, const Array& do_,
                                         const Array& dlse) {
  const Problem p(args);
  const int64_t length = args.q.size(1);
  const Array do_rows = flat_tokens(do_);
  Array dq = zeros_like(p.q), dk = zeros_like(p.k), dv = zeros_like(p.v);
  std::vector<double> weight, dweight;
  for (const Stream& s : p.streams) {
    for (int64_t i = 0; i < s.seq.length; ++i) {
      if (s.selection.row_empty(i)) continue;
      const int64_t row = s.seq.first_row + i;
      p.softmax_row(s, i, weight);
      dweight.assign(weight.size(), 0.0);
      double mean = 0.0;  // of dweight under the softmax weights
      for (int64_t j = 0; j < s.seq.length; ++j) {
        if (!s.selection.at(i, j)) continue;
        const int64_t key = s.seq.first_row + j;
        double& d = dweight[static_cast<size_t>(j)];
        for (int64_t c = 0; c < p.v.size(2); ++c) {
          d += do_rows.at(row, s.head, c) * p.v.at(key, s.kv_head, c);
          dv.at(key, s.kv_head, c) += weight[static_cast<size_t>(j)] * do_rows.at(row, s.head, c);
        }
        mean += weight[static_cast<size_t>(j)] * d;
      }
      const double through_lse = dlse.present() ? dlse.at(row / length, s.head, row % length) : 0.0;
      for (int64_t j = 0; j < s.seq.length; ++j) {
        if (!s.selection.at(i, j)) continue;
        const int64_t key = s.seq.first_row + j;
        const double dlogit = weight[static_cast<size_t>(j)] *
                              (dweight[static_cast<size_t>(j)] - mean + through_lse) * args.scale;
        for (int64_t c = 0; c < p.q.size(2); ++c) {
          dq.at(row, s.head, c) += dlogit * p.k.at(key, s.kv_head, c);
          dk.at(key, s.kv_head, c) += dlogit * p.q.at(row, s.head, c);
        }
      }
    }
  }
  return {dq.reshape(args.q.shape), dk.reshape(args.k.shape), dv.reshape(args.v.shape)};
}

Array oracle_attention_probability(const AttentionArgs& args) {
  if (!args.cu_seqlens.empty()) {
    throw std::invalid_argument("oracle_attention_probability: packed input is not supported");
  }
  const Problem p(args);
  const int64_t length = args.q.size(1);
  Array probability({args.q.size(0), args.q.size(2), length, length});
  std::vector<double> weight;
  for (const Stream& s : p.streams) {
    for (int64_t i = 0; i < length; ++i) {
      p.softmax_row(s, i, weight);
      for (int64_t j = 0; j < length; ++j) {
        probability.at(s.seq.first_row / length, s.head, i, j) = weight[static_cast<size_t>(j)];
      }
    }
  }
  return probability;
}

}  // namespace hax_test
