#pragma once

#include <cstdint>
#include <string>

namespace joint_recall {

inline constexpr int kStartToken = 1;
inline constexpr int kPaddingToken = 3;
inline constexpr int kSeparatorToken = 4;
inline constexpr int kFirstValueToken = 10;

enum class TokenKind { kStart, kPadding, kSeparator, kValue, kKey, kContext, kUnknown };

// Token ids: values from 10 on, then max_n_key keys, then max_n_context contexts.
struct Vocabulary {
  int n_value = 0;
  int max_n_key = 0;
  int max_n_context = 0;

  int value(int index) const { return kFirstValueToken + index; }
  int key(int index) const { return kFirstValueToken + n_value + index; }
  int context(int index) const { return kFirstValueToken + n_value + max_n_key + index; }
  int size() const { return context(max_n_context); }
  int token_bytes() const { return size() <= 256 ? 1 : 2; }

  TokenKind kind(int token) const;
  std::string text(
      int token) const;  // "v3", "k0", "c12", "start", "sep", "pad"; "?57" when unknown

  bool operator==(const Vocabulary&) const = default;
};

// An item is: start; n_context rows of (context, then n_key times key and value); separator; as
// many rows again in another order. Everything but the token ids follows from the two sizes.
struct ItemShape {
  int n_context = 0;
  int n_key = 0;

  int row_length() const { return 2 * n_key + 1; }
  int half_length() const { return n_context * row_length(); }
  int separator_position() const { return 1 + half_length(); }
  int length() const { return 2 * half_length() + 2; }
  // first token of row `row` (a context) of half 0 or 1
  int row_position(int half, int row) const {
    return (half == 0 ? 1 : separator_position() + 1) + row * row_length();
  }

  // The asked positions are the keys of the second half; the token after each is to be predicted.
  int asked_count() const { return n_context * n_key; }
  int asked_position(int ask) const { return row_position(1, ask / n_key) + 1 + 2 * (ask % n_key); }

  bool operator==(const ItemShape&) const = default;
};

// The order of items in a split: rounds, in each every n_context, for each every n_key, ascending.
struct ItemOrder {
  int min_n_context = 0;
  int max_n_context = 0;
  int min_n_key = 0;
  int max_n_key = 0;

  std::int64_t items_per_round() const;
  std::int64_t tokens_per_round() const;
  ItemShape shape(std::int64_t item) const;
  std::int64_t first_token(std::int64_t item) const;  // tokens of all items before this one
  int padded_length() const { return ItemShape{max_n_context, max_n_key}.length(); }

  bool operator==(const ItemOrder&) const = default;
};

}  // namespace joint_recall
