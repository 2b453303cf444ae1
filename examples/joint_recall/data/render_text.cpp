#include <fmt/format.h>

#include "data/dataset_error.hpp"
#include "data/render.hpp"
#include "data/render_cells.hpp"

namespace joint_recall {

ItemCells item_cells(const Item& item, std::span<const int> predictions) {
  const ItemShape& shape = item.shape();
  if (!predictions.empty() && static_cast<int>(predictions.size()) != shape.asked_count()) {
    throw DatasetError(fmt::format("an item of {} asked positions got {} predictions",
                                   shape.asked_count(), predictions.size()));
  }
  ItemCells cells;
  cells.asked = shape.asked_count();
  std::size_t ask = 0;
  for (int half = 0; half < 2; ++half) {
    for (int row = 0; row < shape.n_context; ++row) {
      std::vector<Cell>& line = cells.halves[half].emplace_back();
      for (int i = 0; i < shape.row_length(); ++i) {
        const int position = shape.row_position(half, row) + i;
        Cell& cell = line.emplace_back(Cell{position, item.token(position), false, {}});
        cell.asked = half == 1 && i % 2 == 1;
        if (half == 1 && i > 0 && i % 2 == 0 && !predictions.empty()) {
          cell.prediction = predictions[ask++];
          cells.right += cell.right();
        }
      }
    }
  }
  return cells;
}

std::string item_text(const Item& item, const Vocabulary& vocabulary,
                      std::span<const int> predictions) {
  const ItemShape& shape = item.shape();
  const ItemCells cells = item_cells(item, predictions);
  std::string text = fmt::format("{} contexts x {} keys, {} tokens, {} asked", shape.n_context,
                                 shape.n_key, item.size(), cells.asked);
  if (!predictions.empty()) text += fmt::format(", {} predicted right", cells.right);
  text += fmt::format("\n{:>4}  {}\n", 0, vocabulary.text(item.token(0)));
  for (int half = 0; half < 2; ++half) {
    if (half == 1) {
      const int separator = shape.separator_position();
      text += fmt::format("{:>4}  {}   asked: the value after every key marked ?\n", separator,
                          vocabulary.text(item.token(separator)));
    }
    for (const std::vector<Cell>& row : cells.halves[half]) {
      text += fmt::format("{:>4}  {:<4}", row[0].position, vocabulary.text(row[0].token));
      for (std::size_t i = 1; i < row.size(); i += 2) {
        const Cell& value = row[i + 1];
        std::string pair = vocabulary.text(row[i].token) + (row[i].asked ? "? " : " ") +
                           vocabulary.text(value.token);
        if (value.prediction) {
          pair += value.right() ? " ok" : " not " + vocabulary.text(*value.prediction);
        }
        text += fmt::format(" | {:<{}}", pair, predictions.empty() ? (half == 0 ? 7 : 8) : 16);
      }
      text.erase(text.find_last_not_of(' ') + 1);
      text += '\n';
    }
  }
  return text;
}

}  // namespace joint_recall
