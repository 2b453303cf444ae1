#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/vocabulary.hpp"

namespace joint_recall {

// Tells whether tokens are an item of a shape: both halves hold the same table, each with every
// context once and under each context every key once.
class ItemChecker {
 public:
  explicit ItemChecker(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  // Empty when they are, otherwise the first thing that is wrong.
  std::string problem(const ItemShape& shape, std::span<const int> tokens);

 private:
  std::string half_problem(int half, const ItemShape& shape, std::span<const int> tokens);

  Vocabulary vocabulary_;
  std::vector<int> table_;  // value token of each (context, key) seen in the half being checked
  std::vector<int> first_table_;
};

}  // namespace joint_recall
