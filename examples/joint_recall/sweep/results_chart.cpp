#include <fmt/format.h>

#include <algorithm>

#include "sweep/results_text.hpp"
#include "train/plot_axis.hpp"
#include "train/svg.hpp"

namespace joint_recall {
namespace {

constexpr double kChartWidth = 860.0;
constexpr double kChartLeft = 250.0;
constexpr double kChartRight = 90.0;
constexpr double kChartTop = 78.0;
constexpr double kChartBottom = 50.0;
constexpr double kBar = 15.0;
constexpr double kRowGap = 12.0;
constexpr std::string_view kColours[] = {"#74a9d8", "#d9480f", "#5c940d", "#862e9c"};
constexpr std::string_view kPaperColour = "#212529";
constexpr std::string_view kChartGrid = "#e9ecef";
constexpr std::string_view kChartFaint = "#868e96";

std::string_view colour_of(size_t column) { return kColours[column % std::size(kColours)]; }

void draw_bar(Svg& svg, const Axis& x, double y, const CellResult& result,
              std::string_view colour) {
  const bool done = result.status == CellStatus::kDone;
  const double value = done ? 100.0 * result.test_accuracy : 0.0;
  if (done) svg.box(x.first, y, x.at(value) - x.first, kBar - 2, colour);
  double label = x.at(value) + 5;
  if (result.cell.paper) {
    const double paper = x.at(*result.cell.paper);
    svg.line(paper, y - 1, paper, y + kBar - 1, {.colour = kPaperColour, .width = 2.5});
    if (paper > label - 8 && paper < label + 34) label = paper + 6;
  }
  svg.text(label, y + kBar - 4, done ? fmt::format("{:.1f}", value) : to_string(result.status),
           {.size = 11, .fill = done ? kPaperColour : kChartFaint, .halo = true});
}

void draw_chart_legend(Svg& svg, const std::vector<std::string>& columns, bool paper) {
  double x = kChartLeft;
  for (size_t c = 0; c < columns.size(); ++c) {
    svg.box(x, 42, 14, 12, colour_of(c));
    svg.text(x + 20, 53, columns[c]);
    x += 40.0 + 8.0 * static_cast<double>(columns[c].size());
  }
  if (!paper) return;
  svg.line(x + 4, 41, x + 4, 55, {.colour = kPaperColour, .width = 2.5});
  svg.text(x + 14, 53, "the paper's figure");
}

}  // namespace

std::string results_chart(const SweepResults& results) {
  const std::vector<std::string> rows = distinct(results, &Cell::row);
  const std::vector<std::string> columns = distinct(results, &Cell::column);
  const auto cells = static_cast<double>(results.cells.size());
  const double height =
      kChartTop + cells * kBar + static_cast<double>(rows.size()) * kRowGap + kChartBottom;
  Svg svg(kChartWidth, height);
  svg.text(20, 28, results.title, {.size = 15, .bold = true});
  draw_chart_legend(svg, columns, std::ranges::any_of(results.cells, [](const CellResult& result) {
                      return result.cell.paper.has_value();
                    }));

  const double bottom = height - kChartBottom;
  const Axis x{.low = 0.0, .high = 100.0, .first = kChartLeft, .last = kChartWidth - kChartRight};
  for (const double tick : round_ticks(0.0, 100.0, 5)) {
    svg.line(x.at(tick), kChartTop - 8, x.at(tick), bottom, {.colour = kChartGrid});
    svg.text(x.at(tick), bottom + 18, tick_text(tick), {.anchor = "middle"});
  }
  svg.text((x.first + x.last) / 2, bottom + 38, "test accuracy in %",
           {.size = 13, .anchor = "middle"});

  double y = kChartTop;
  for (const std::string& row : rows) {
    const double first = y;
    for (size_t c = 0; c < columns.size(); ++c) {
      const CellResult* result = find_cell(results, row, columns[c]);
      if (result == nullptr) continue;
      draw_bar(svg, x, y, *result, colour_of(c));
      y += kBar;
    }
    svg.text(kChartLeft - 10, (first + y) / 2 + 4, row, {.anchor = "end"});
    y += kRowGap;
  }
  return svg.finish();
}

}  // namespace joint_recall
