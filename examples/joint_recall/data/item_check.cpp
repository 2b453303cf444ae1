#include "data/item_check.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace joint_recall {

std::string ItemChecker::problem(const ItemShape& shape, std::span<const int> tokens) {
  if (static_cast<int>(tokens.size()) != shape.length()) {
    return fmt::format("the item has {} tokens, but one of {} contexts x {} keys has {}",
                       tokens.size(), shape.n_context, shape.n_key, shape.length());
  }
  if (tokens[0] != kStartToken)
    return fmt::format("it starts with token {}, not {}", tokens[0], kStartToken);
  const int separator = tokens[static_cast<std::size_t>(shape.separator_position())];
  if (separator != kSeparatorToken) {
    return fmt::format("position {} has token {}, not the separator {}", shape.separator_position(),
                       separator, kSeparatorToken);
  }
  std::string problem = half_problem(0, shape, tokens);
  first_table_.swap(table_);
  if (problem.empty()) problem = half_problem(1, shape, tokens);
  if (problem.empty() && table_ != first_table_) problem = "its halves hold different tables";
  return problem;
}

std::string ItemChecker::half_problem(int half, const ItemShape& shape,
                                      std::span<const int> tokens) {
  table_.assign(static_cast<std::size_t>(shape.asked_count()), -1);
  for (int row = 0; row < shape.n_context; ++row) {
    const int position = shape.row_position(half, row);
    const std::span<const int> cells = tokens.subspan(static_cast<std::size_t>(position),
                                                      static_cast<std::size_t>(shape.row_length()));
    const int context = cells[0] - vocabulary_.context(0);
    if (context < 0 || context >= shape.n_context) {
      return fmt::format("position {} has token {}, not a context", position, cells[0]);
    }
    for (std::size_t cell = 1; cell < cells.size(); cell += 2) {
      const int key = cells[cell] - vocabulary_.key(0);
      const int value = cells[cell + 1];
      if (key < 0 || key >= shape.n_key) {
        return fmt::format("position {} has token {}, not a key", position + static_cast<int>(cell),
                           cells[cell]);
      }
      if (vocabulary_.kind(value) != TokenKind::kValue) {
        return fmt::format("position {} has token {}, not a value",
                           position + static_cast<int>(cell) + 1, value);
      }
      int& entry = table_[static_cast<std::size_t>(context * shape.n_key + key)];
      if (entry != -1) {
        return fmt::format("key {} comes twice under context {} in one half", key, context);
      }
      entry = value;
    }
  }
  return {};
}

}  // namespace joint_recall
