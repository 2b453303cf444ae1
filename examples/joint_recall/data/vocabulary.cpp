#include "data/vocabulary.hpp"

#include <fmt/format.h>

namespace joint_recall {

TokenKind Vocabulary::kind(int token) const {
  if (token == kStartToken) return TokenKind::kStart;
  if (token == kPaddingToken) return TokenKind::kPadding;
  if (token == kSeparatorToken) return TokenKind::kSeparator;
  if (token < kFirstValueToken || token >= size()) return TokenKind::kUnknown;
  if (token < key(0)) return TokenKind::kValue;
  return token < context(0) ? TokenKind::kKey : TokenKind::kContext;
}

std::string Vocabulary::text(int token) const {
  switch (kind(token)) {
    case TokenKind::kStart: return "start";
    case TokenKind::kPadding: return "pad";
    case TokenKind::kSeparator: return "sep";
    case TokenKind::kValue: return fmt::format("v{}", token - value(0));
    case TokenKind::kKey: return fmt::format("k{}", token - key(0));
    case TokenKind::kContext: return fmt::format("c{}", token - context(0));
    case TokenKind::kUnknown: break;
  }
  return fmt::format("?{}", token);
}

namespace {

// first + (first + 1) + ... , `count` terms
std::int64_t series(std::int64_t first, std::int64_t count) {
  return count * first + count * (count - 1) / 2;
}

// Tokens of the items with n_context contexts and the first n_sizes key counts from min_n_key on.
std::int64_t tokens_of_context_count(std::int64_t n_context, std::int64_t min_n_key,
                                     std::int64_t n_sizes) {
  return 2 * n_context * (2 * series(min_n_key, n_sizes) + n_sizes) + 2 * n_sizes;
}

}  // namespace

std::int64_t ItemOrder::items_per_round() const {
  return std::int64_t{max_n_context - min_n_context + 1} * (max_n_key - min_n_key + 1);
}

std::int64_t ItemOrder::tokens_per_round() const {
  const std::int64_t context_sizes = max_n_context - min_n_context + 1;
  const std::int64_t key_sizes = max_n_key - min_n_key + 1;
  return tokens_of_context_count(series(min_n_context, context_sizes), min_n_key, key_sizes) +
         (context_sizes - 1) * 2 * key_sizes;
}

ItemShape ItemOrder::shape(std::int64_t item) const {
  const std::int64_t key_sizes = max_n_key - min_n_key + 1;
  const std::int64_t place = item % items_per_round();
  return {min_n_context + static_cast<int>(place / key_sizes),
          min_n_key + static_cast<int>(place % key_sizes)};
}

std::int64_t ItemOrder::first_token(std::int64_t item) const {
  const std::int64_t key_sizes = max_n_key - min_n_key + 1;
  const std::int64_t place = item % items_per_round();
  const std::int64_t whole = place / key_sizes;
  std::int64_t tokens = item / items_per_round() * tokens_per_round();
  if (whole > 0) {
    tokens += tokens_of_context_count(series(min_n_context, whole), min_n_key, key_sizes) +
              (whole - 1) * 2 * key_sizes;
  }
  return tokens + tokens_of_context_count(min_n_context + whole, min_n_key, place % key_sizes);
}

}  // namespace joint_recall
