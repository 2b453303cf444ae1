#include "train/plot_curves.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "train/plot_axis.hpp"
#include "train/svg.hpp"

namespace joint_recall {
namespace {

constexpr double kWidth = 860.0;
constexpr double kCurvesLeft = 74.0;
constexpr double kCurvesRight = 24.0;
constexpr double kCurvesTop = 58.0;
constexpr double kPanelHeight = 236.0;
constexpr double kGap = 44.0;
constexpr double kCurvesBottom = 56.0;
constexpr double kHeight = kCurvesTop + 2 * kPanelHeight + kGap + kCurvesBottom;
constexpr size_t kMostPoints = 600;

constexpr std::string_view kTrainColour = "#74a9d8";
constexpr std::string_view kValidColour = "#d9480f";
constexpr std::string_view kGrid = "#e9ecef";
constexpr std::string_view kFrame = "#adb5bd";
constexpr std::string_view kCurvesFaint = "#868e96";

struct Series {
  std::vector<double> step, value;
};

// Means of neighbours, so that a long run has no more points than pixels.
Series thinned(const Series& series) {
  const size_t group = (series.step.size() + kMostPoints - 1) / kMostPoints;
  if (group <= 1) return series;
  Series result;
  for (size_t begin = 0; begin < series.step.size(); begin += group) {
    const size_t end = std::min(begin + group, series.step.size());
    double step = 0.0, value = 0.0;
    for (size_t i = begin; i < end; ++i) step += series.step[i], value += series.value[i];
    result.step.push_back(step / static_cast<double>(end - begin));
    result.value.push_back(value / static_cast<double>(end - begin));
  }
  return result;
}

Series series_of(const std::vector<MetricsRecord>& records, bool validation,
                 const std::function<double(const MetricsRecord&)>& value) {
  Series series;
  for (const MetricsRecord& record : records) {
    if (record.validation != validation) continue;
    series.step.push_back(static_cast<double>(record.step));
    series.value.push_back(value(record));
  }
  return thinned(series);
}

void draw_frame(Svg& svg, const Axis& x, const Axis& y, std::string_view label, bool last) {
  for (const double tick : round_ticks(y.low, y.high, 5)) {
    svg.line(x.first, y.at(tick), x.last, y.at(tick), {.colour = kGrid});
    svg.text(x.first - 8, y.at(tick) + 4, tick_text(tick), {.anchor = "end"});
  }
  for (const double tick : round_ticks(x.low, x.high, 8)) {
    svg.line(x.at(tick), y.first, x.at(tick), y.last, {.colour = kGrid});
    if (last) svg.text(x.at(tick), y.first + 18, tick_text(tick), {.anchor = "middle"});
  }
  svg.outline(x.first, y.last, x.last - x.first, y.first - y.last, {.colour = kFrame});
  svg.text(20, (y.first + y.last) / 2, label, {.size = 13, .anchor = "middle", .turn = -90});
  if (last)
    svg.text((x.first + x.last) / 2, y.first + 42, "step", {.size = 13, .anchor = "middle"});
}

void draw_series(Svg& svg, const Axis& x, const Axis& y, const Series& series,
                 std::string_view colour, bool dots) {
  std::vector<Svg::Point> points;
  for (size_t i = 0; i < series.step.size(); ++i) {
    points.push_back({x.at(series.step[i]), y.at(std::clamp(series.value[i], y.low, y.high))});
  }
  svg.polyline(points, {.colour = colour, .width = dots ? 2.2 : 1.5});
  if (dots && points.size() <= 100) {
    for (const Svg::Point& point : points) svg.dot(point.x, point.y, 3.2, colour);
  }
}

void draw_legend(Svg& svg) {
  const double right = kWidth - kCurvesRight;
  svg.line(right - 212, kCurvesTop - 16, right - 188, kCurvesTop - 16,
           {.colour = kTrainColour, .width = 2.2});
  svg.text(right - 182, kCurvesTop - 12, "training");
  svg.line(right - 106, kCurvesTop - 16, right - 82, kCurvesTop - 16,
           {.colour = kValidColour, .width = 2.2});
  svg.dot(right - 94, kCurvesTop - 16, 3.2, kValidColour);
  svg.text(right - 76, kCurvesTop - 12, "validation");
}

}  // namespace

std::string curves_svg(const std::vector<MetricsRecord>& records, const CurvesInfo& info) {
  const auto loss = [](const MetricsRecord& record) { return record.loss; };
  const auto accuracy = [](const MetricsRecord& record) { return 100.0 * record.accuracy; };
  const Series train_loss = series_of(records, false, loss);
  const Series valid_loss = series_of(records, true, loss);

  double last_step = 1.0;
  for (const MetricsRecord& record : records) {
    last_step = std::max(last_step, static_cast<double>(record.step));
  }
  double highest_loss = 1e-3;
  for (const Series* series : {&train_loss, &valid_loss}) {
    for (const double value : series->value) highest_loss = std::max(highest_loss, value);
  }

  Svg svg(kWidth, kHeight);
  const Axis x{.low = 0.0, .high = last_step, .first = kCurvesLeft, .last = kWidth - kCurvesRight};
  const Axis loss_axis{.low = 0.0,
                       .high = highest_loss * 1.05,
                       .first = kCurvesTop + kPanelHeight,
                       .last = kCurvesTop};
  const double second = kCurvesTop + kPanelHeight + kGap;
  const Axis accuracy_axis{
      .low = 0.0, .high = 100.0, .first = second + kPanelHeight, .last = second};

  svg.text(kCurvesLeft, 26, info.title, {.size = 15, .bold = true});
  draw_legend(svg);

  draw_frame(svg, x, loss_axis, "loss (cross entropy)", false);
  draw_series(svg, x, loss_axis, train_loss, kTrainColour, false);
  draw_series(svg, x, loss_axis, valid_loss, kValidColour, true);

  draw_frame(svg, x, accuracy_axis, "accuracy in %", true);
  const double chance = accuracy_axis.at(100.0 * info.chance);
  svg.line(x.first, chance, x.last, chance, {.colour = kCurvesFaint, .dashes = "5 4"});
  svg.text(x.first + 6, chance - 5, fmt::format("chance {:.1f} %", 100.0 * info.chance),
           {.size = 11, .fill = kCurvesFaint});
  draw_series(svg, x, accuracy_axis, series_of(records, false, accuracy), kTrainColour, false);
  draw_series(svg, x, accuracy_axis, series_of(records, true, accuracy), kValidColour, true);

  const auto warmup = static_cast<double>(info.warmup_step);
  if (warmup > 0.0 && warmup < last_step) {
    for (const Axis* axis : {&loss_axis, &accuracy_axis}) {
      svg.line(x.at(warmup), axis->first, x.at(warmup), axis->last,
               {.colour = kCurvesFaint, .dashes = "2 3"});
    }
    svg.text(x.at(warmup) + 5, loss_axis.last + 14, "warm-up ends",
             {.size = 11, .fill = kCurvesFaint});
  }
  if (info.best_step > 0) {
    const double best_x = x.at(static_cast<double>(info.best_step));
    const double best_y = accuracy_axis.at(100.0 * info.best_accuracy);
    const bool left_half = best_x < (x.first + x.last) / 2;
    const double below = best_y + 24 > accuracy_axis.first ? -12 : 20;
    svg.text(
        best_x + (left_half ? 8 : -8), best_y + below,
        fmt::format("best {:.1f} % at step {}", 100.0 * info.best_accuracy,
                    tick_text(static_cast<double>(info.best_step))),
        {.anchor = left_half ? "start" : "end", .fill = kValidColour, .bold = true, .halo = true});
  }
  return svg.finish();
}

}  // namespace joint_recall
