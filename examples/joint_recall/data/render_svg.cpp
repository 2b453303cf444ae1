#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

#include "data/render.hpp"
#include "data/render_cells.hpp"

namespace joint_recall {
namespace {

constexpr int kMargin = 16;
constexpr int kPositionWidth = 40;
constexpr int kCellWidth = 36;
constexpr int kCellHeight = 22;
constexpr int kPredictionHeight = 14;
constexpr int kRowGap = 4;
constexpr int kTitleHeight = 34;
constexpr int kHalfTitleHeight = 24;
constexpr int kLegendHeight = 40;
constexpr int kMinimumWidth = 620;

constexpr const char* kContextFill = "#33415c";
constexpr const char* kKeyFill = "#e3e7ee";
constexpr const char* kOtherFill = "#b9bec8";
constexpr const char* kAskedStroke = "stroke=\"#d9480f\" stroke-width=\"2\"";
constexpr const char* kRightFill = "#2b8a3e";
constexpr const char* kWrongFill = "#c92a2a";

std::string escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

// A light colour of its own for each value, round the colour circle.
std::string value_fill(int value, int n_value) {
  std::array<int, 3> channels{};
  for (std::size_t i = 0; i < 3; ++i) {
    const double turn = static_cast<double>(value) / n_value - static_cast<double>(i) / 3.0;
    channels[i] = static_cast<int>(std::lround(190.0 + 60.0 * std::cos(2.0 * M_PI * turn)));
  }
  return fmt::format("#{:02x}{:02x}{:02x}", channels[0], channels[1], channels[2]);
}

class Picture {
 public:
  explicit Picture(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  void text(int x, int y, const std::string& content, const char* attributes = "") {
    fmt::format_to(out(), "<text x=\"{}\" y=\"{}\" {}>{}</text>\n", x, y, attributes,
                   escape(content));
  }

  void box(int x, int y, int height, const std::string& fill, const char* attributes = "") {
    fmt::format_to(out(), "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" {}/>\n",
                   x, y, kCellWidth - 2, height, fill, attributes);
  }

  void cell(int x, int y, const Cell& cell) {
    const std::string label = vocabulary_.text(cell.token);
    fmt::format_to(out(), "<g><title>position {}: {} (token {}){}</title>\n", cell.position, label,
                   cell.token, cell.asked ? ", asked" : "");
    box(x, y, kCellHeight - 2, fill(cell.token), cell.asked ? kAskedStroke : "");
    const bool dark = vocabulary_.kind(cell.token) == TokenKind::kContext;
    text(x + kCellWidth / 2 - 1, y + 14, label,
         dark ? "text-anchor=\"middle\" fill=\"#ffffff\"" : "text-anchor=\"middle\"");
    if (cell.prediction) {
      const int top = y + kCellHeight - 2;
      box(x, top, kPredictionHeight, cell.right() ? kRightFill : kWrongFill);
      text(x + kCellWidth / 2 - 1, top + 11, vocabulary_.text(*cell.prediction),
           "text-anchor=\"middle\" fill=\"#ffffff\" font-size=\"10\"");
    }
    body_ += "</g>\n";
  }

  std::string fill(int token) const {
    switch (vocabulary_.kind(token)) {
      case TokenKind::kContext: return kContextFill;
      case TokenKind::kKey: return kKeyFill;
      case TokenKind::kValue: return value_fill(token - vocabulary_.value(0), vocabulary_.n_value);
      default: return kOtherFill;
    }
  }

  std::string finish(int width, int height) const {
    return fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" "
        "viewBox=\"0 0 {0} {1}\" font-family=\"monospace\" font-size=\"11\">\n"
        "<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n{2}</svg>\n",
        width, height, body_);
  }

 private:
  std::back_insert_iterator<std::string> out() { return std::back_inserter(body_); }

  const Vocabulary& vocabulary_;
  std::string body_;
};

void draw_legend(Picture& picture, const Vocabulary& vocabulary, int y, bool predicted) {
  int x = kMargin;
  const auto entry = [&](const std::string& fill, const char* label, const char* attributes = "") {
    picture.box(x, y, kCellHeight - 2, fill, attributes);
    picture.text(x + kCellWidth + 4, y + 14, label);
    x += kCellWidth + 20 + 8 * static_cast<int>(std::char_traits<char>::length(label));
  };
  entry(kContextFill, "context");
  entry(picture.fill(vocabulary.key(0)), "key");
  entry(picture.fill(vocabulary.value(0)), "value");
  entry(kKeyFill, "asked", kAskedStroke);
  if (predicted) {
    entry(kRightFill, "right");
    entry(kWrongFill, "wrong");
  }
}

}  // namespace

std::string item_svg(const Item& item, const Vocabulary& vocabulary, const std::string& title,
                     std::span<const int> predictions) {
  const ItemShape& shape = item.shape();
  const ItemCells cells = item_cells(item, predictions);
  const bool predicted = !predictions.empty();
  Picture picture(vocabulary);

  std::string heading = fmt::format("{}: {} contexts x {} keys, {} tokens", title, shape.n_context,
                                    shape.n_key, item.size());
  if (predicted) heading += fmt::format(", {} of {} predicted right", cells.right, cells.asked);
  picture.text(kMargin, kMargin + 12, heading, "font-size=\"14\" font-weight=\"bold\"");
  int y = kMargin + kTitleHeight;
  const int first_cell_x = kMargin + kPositionWidth;

  for (int half = 0; half < 2; ++half) {
    const int lead = half == 0 ? 0 : shape.separator_position();
    picture.text(kMargin, y + 14, std::to_string(lead), "fill=\"#868e96\"");
    picture.cell(first_cell_x, y, {lead, item.token(lead), false, {}});
    picture.text(first_cell_x + kCellWidth + 8, y + 14,
                 half == 0 ? "first half: the table is told"
                           : "second half: the value after each asked key is to be predicted");
    y += kHalfTitleHeight;
    for (const std::vector<Cell>& row : cells.halves[half]) {
      picture.text(kMargin, y + 14, std::to_string(row[0].position), "fill=\"#868e96\"");
      int x = first_cell_x;
      for (const Cell& cell : row) {
        picture.cell(x, y, cell);
        x += kCellWidth;
      }
      y += kCellHeight + kRowGap + (half == 1 && predicted ? kPredictionHeight : 0);
    }
    y += kMargin / 2;
  }

  draw_legend(picture, vocabulary, y, predicted);
  const int cells_width = first_cell_x + shape.row_length() * kCellWidth + kMargin;
  return picture.finish(std::max(cells_width, kMinimumWidth), y + kLegendHeight);
}

}  // namespace joint_recall
