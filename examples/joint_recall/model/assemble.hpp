// How a batch follows from its items' tokens: what CPU and GPU do alike for one row and one asked token.
#pragma once

#include <cstdint>

#include "data/vocabulary.hpp"
#include "model/backend.hpp"

#ifdef __CUDACC__
#define JOINT_RECALL_EITHER __host__ __device__
#else
#define JOINT_RECALL_EITHER
#endif

namespace joint_recall::assembling {

JOINT_RECALL_EITHER inline int32_t token(const ItemTokens& tokens, int64_t at) {
  return tokens.token_bytes == 1 ? static_cast<const uint8_t*>(tokens.data)[at]
                                 : static_cast<const uint16_t*>(tokens.data)[at];
}

// The last of `count` items whose `first` is at most the place.
template <class First>
JOINT_RECALL_EITHER inline int64_t find_item(int64_t count, int64_t place, First first) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (first(middle) <= place) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

JOINT_RECALL_EITHER inline void fill_row(const ItemTokens& tokens, const BatchArrays& out,
                                         int64_t row) {
  const int64_t i = find_item(tokens.count, row, [&](int64_t k) { return tokens.items[k].row; });
  const BatchItem item = tokens.items[i];
  const int64_t position = row - item.row;
  const bool real = position < item.seen;
  out.inputs[row] = real ? token(tokens, item.first_token + position) : kPaddingToken;
  if (out.mask != nullptr) out.mask[row] = real ? 1 : 0;
  if (out.position == nullptr) return;
  // Padding behind the last item of a packed batch is a sequence of its own.
  out.position[row] =
      static_cast<int32_t>(real || out.mask != nullptr ? position : position - item.seen);
}

JOINT_RECALL_EITHER inline void fill_asked(const ItemTokens& tokens, const BatchArrays& out,
                                           int64_t ask) {
  if (ask >= *tokens.asked) {
    out.asked_positions[ask] = static_cast<int32_t>(out.rows - 1);
    out.asked_targets[ask] = -1;
    return;
  }
  const int64_t i = find_item(tokens.count, ask, [&](int64_t k) { return tokens.items[k].asked; });
  const BatchItem item = tokens.items[i];
  const int32_t own = static_cast<int32_t>(ask) - item.asked;
  // The keys of the second half: see ItemShape.
  const int32_t row_length = 2 * item.n_key + 1;
  const int32_t position =
      2 + (item.n_context + own / item.n_key) * row_length + 1 + 2 * (own % item.n_key);
  out.asked_positions[ask] = item.row + position;
  out.asked_targets[ask] = token(tokens, item.first_token + position + 1);
}

}  // namespace joint_recall::assembling
