#pragma once

#include <span>
#include <string>

#include "data/dataset.hpp"

namespace joint_recall {

// Both show an item so that a person can follow it: one line per context, the first half above the
// second, asked positions marked. `predictions` is empty or has one predicted token per asked
// position, in order, which is then shown right or wrong.

std::string item_text(const Item& item, const Vocabulary& vocabulary,
                      std::span<const int> predictions = {});

std::string item_svg(const Item& item, const Vocabulary& vocabulary, const std::string& title,
                     std::span<const int> predictions = {});

}  // namespace joint_recall
