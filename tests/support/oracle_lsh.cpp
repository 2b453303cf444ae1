#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "oracle_hash.hpp"

namespace hax_test {
namespace {

constexpr double kMinNorm = 1e-12;

struct Statistics {
  double centre = 0.0, scale = 1.0;
};

// Mean and inverse centred norm of one feature over the first `count` tokens of a sequence.
Statistics feature_statistics(const Array& rows, const Sequence& seq, int64_t count, int64_t h,
                              int64_t n) {
  Statistics s;
  for (int64_t t = 0; t < count; ++t) s.centre += rows.at(seq.first_row + t, h, n);
  s.centre /= static_cast<double>(count);
  double squares = 0.0;
  for (int64_t t = 0; t < count; ++t) {
    const double centred = rows.at(seq.first_row + t, h, n) - s.centre;
    squares += centred * centred;
  }
  s.scale = 1.0 / std::max(std::sqrt(squares), kMinNorm);
  return s;
}

}  // namespace

LshHash oracle_lsh_hash(const Array& x, const Array& R, LshStatistics statistics,
                        const std::vector<int64_t>& cu_seqlens) {
  const int64_t heads = x.size(2), features = x.size(3), bits = R.size(1);
  const Array rows = flat_tokens(x);
  Array projection({rows.size(0), heads, bits});
  LshHash hash;
  hash.codes.assign(static_cast<size_t>(rows.size(0) * heads), 0);
  for (const Sequence& seq : sequences_of(x, cu_seqlens)) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t n = 0; n < features; ++n) {
        Statistics s;
        if (statistics == LshStatistics::kSequence && seq.length > 0) {
          s = feature_statistics(rows, seq, seq.length, h, n);
        }
        for (int64_t t = 0; t < seq.length; ++t) {
          const int64_t row = seq.first_row + t;
          if (statistics == LshStatistics::kCausal) {
            s = feature_statistics(rows, seq, t + 1, h, n);
          }
          const double normalized = (rows.at(row, h, n) - s.centre) * s.scale;
          for (int64_t j = 0; j < bits; ++j) projection.at(row, h, j) += normalized * R.at(n, j);
        }
      }
    }
  }
  for (int64_t row = 0; row < rows.size(0); ++row) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < bits; ++j) {
        if (projection.at(row, h, j) > 0.0) {
          hash.codes[static_cast<size_t>(row * heads + h)] |= uint64_t{1} << j;
        }
      }
    }
  }
  hash.projection = projection.reshape({x.size(0), x.size(1), heads, bits});
  return hash;
}

std::vector<std::vector<int64_t>> oracle_lsh_candidates(const std::vector<uint64_t>& codes_q,
                                                        const std::vector<uint64_t>& codes_k,
                                                        int64_t budget) {
  if (codes_q.size() != codes_k.size()) {
    throw std::invalid_argument("oracle_lsh_candidates: as many query codes as key codes");
  }
  std::vector<std::vector<int64_t>> candidates(codes_q.size());
  for (size_t i = 0; i < codes_q.size(); ++i) {
    std::vector<int64_t>& found = candidates[i];
    for (size_t j = i + 1; j-- > 0 && static_cast<int64_t>(found.size()) < budget;) {
      if (codes_k[j] == codes_q[i]) found.push_back(static_cast<int64_t>(j));
    }
    std::reverse(found.begin(), found.end());
  }
  return candidates;
}

}  // namespace hax_test
