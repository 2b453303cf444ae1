// What the tests of hashing and key selection share.
#pragma once

#include <string>
#include <vector>

#include "support/comparator.hpp"
#include "support/oracle_hash.hpp"
#include "support/tensor_builder.hpp"

namespace hax_test {

// Tokens of some tensors of the C interface are the last axis, of the oracles always the second:
// (B, L, H) from and to (B, H, L).
inline Array swap_last_two(const Array& a) {
  Array swapped({a.size(0), a.size(2), a.size(1)});
  for (int64_t b = 0; b < a.size(0); ++b) {
    for (int64_t i = 0; i < a.size(1); ++i) {
      for (int64_t j = 0; j < a.size(2); ++j) swapped.at(b, j, i) = a.at(b, i, j);
    }
  }
  return swapped;
}

inline Argument boundaries(const std::vector<int64_t>& cu_seqlens, hax_data_type type = kInt32) {
  return cu_seqlens.empty() ? Argument() : Argument::indices(cu_seqlens, type);
}

// The sequences of a (B, heads, L) tensor: row on the batch axis, first token, length.
struct Stretch {
  int64_t row, first, length;
};
inline std::vector<Stretch> stretches(int64_t batch, int64_t length,
                                      const std::vector<int64_t>& cu_seqlens) {
  std::vector<Stretch> result;
  for (int64_t b = 0; b < batch && cu_seqlens.empty(); ++b) result.push_back({b, 0, length});
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    result.push_back({0, cu_seqlens[s], cu_seqlens[s + 1] - cu_seqlens[s]});
  }
  return result;
}

// One head's values of a flat row-major (B, heads, L) tensor within a sequence.
template <class T>
std::vector<T> values_of(const std::vector<T>& flat, int64_t heads, int64_t length,
                         const Stretch& s, int64_t head) {
  const auto first = flat.begin() + (s.row * heads + head) * length + s.first;
  return std::vector<T>(first, first + s.length);
}

// A packed row of `length` tokens cut into sequences, of which some are empty.
inline std::vector<int64_t> cut_up(int64_t length) {
  return {0, 0, length / 3, length / 3 + 1, length / 3 + 1, length, length};
}

// More sequences than 16 bits count, of 0 to 3 tokens.
inline std::vector<int64_t> many_sequences() {
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t s = 0; s < 70000; ++s) cu_seqlens.push_back(cu_seqlens.back() + s % 4);
  return cu_seqlens;
}

}  // namespace hax_test
