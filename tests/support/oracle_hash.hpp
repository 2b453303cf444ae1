#pragma once

#include <cstdint>
#include <vector>

#include "array.hpp"

// Hashing, key scoring, ranking loss and key selection in fp64, straight from their definitions.
// One "stream" is one head of one sequence; streams are ordered sequence by sequence, head by head.
namespace hax_test {

enum class LshStatistics { kNone, kSequence, kCausal };

struct LshHash {
  Array projection;             // (B, L, H, num_bits)
  std::vector<uint64_t> codes;  // in (B, L, H) order
};
// x is (B, L, H, N), projection matrix R (N, num_bits).
LshHash oracle_lsh_hash(const Array& x, const Array& R, LshStatistics statistics,
                        const std::vector<int64_t>& cu_seqlens = {});

// For every query i of one stream, ascending: the most recent `budget` keys j <= i of equal code.
std::vector<std::vector<int64_t>> oracle_lsh_candidates(const std::vector<uint64_t>& codes_q,
                                                        const std::vector<uint64_t>& codes_k,
                                                        int64_t budget);

// The values of one stream of a (B, L, H) tensor.
template <class T>
std::vector<T> stream_of(const std::vector<T>& values, const Sequence& seq, int64_t heads,
                         int64_t head) {
  std::vector<T> stream;
  for (int64_t t = 0; t < seq.length; ++t) {
    stream.push_back(values[static_cast<size_t>((seq.first_row + t) * heads + head)]);
  }
  return stream;
}

enum class QueryNormalization {
  kFeature,  // over the features of one position
  kSequence  // over all positions of the sequence, feature by feature
};

struct KeyScoreArgs {
  Array q, k;    // (B, L, H, N); k already scaled
  Array w1, b1;  // (2N, 2N), (2N)
  Array w2, b2;  // (2N, 2N), (2N)
  Array w3, b3;  // (1, 2N), (1)
  QueryNormalization normalization = QueryNormalization::kFeature;
  std::vector<int64_t> cu_seqlens;
};
struct KeyScoreGrads {
  Array dw1, db1, dw2, db2, dw3, db3;
};
// Running sum of q over its norm (at least 1e-12), (B, L, H, N).
Array oracle_summed_query(const KeyScoreArgs& args);
Array oracle_key_score(const KeyScoreArgs& args);  // (B, L, H)
KeyScoreGrads oracle_key_score_backward(const KeyScoreArgs& args, const Array& dscore);

struct RankingLossArgs {
  Array q, k;   // (B, L, H, N); k already scaled
  Array score;  // (B, L, H)
  // Per stream, positions inside its sequence; negative entries are unused. Means run over the
  // used ones; a stream without any counts as a loss of 0.
  std::vector<std::vector<int64_t>> picks;
  std::vector<int64_t> cu_seqlens;
};
double oracle_ranking_loss(const RankingLossArgs& args);
Array oracle_ranking_loss_backward(const RankingLossArgs& args, double dloss);  // dscore

// Eviction times of one stream: query i attends key j iff j <= i < e_j.
std::vector<int64_t> oracle_key_select(const std::vector<double>& score, int64_t budget);

}  // namespace hax_test
