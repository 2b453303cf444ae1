#pragma once

#include <optional>
#include <span>
#include <vector>

#include "data/dataset.hpp"

namespace joint_recall {

// What the text and the picture of an item both show of one token.
struct Cell {
  int position = 0;
  int token = 0;
  bool asked = false;             // a key whose value is to be predicted
  std::optional<int> prediction;  // on the value after an asked key
  bool right() const { return prediction == token; }
};

struct ItemCells {
  std::vector<std::vector<Cell>> halves[2];  // [half][row][cell]
  int asked = 0;
  int right = 0;
};

// Throws DatasetError when there are predictions but not one per asked position.
ItemCells item_cells(const Item& item, std::span<const int> predictions);

}  // namespace joint_recall
