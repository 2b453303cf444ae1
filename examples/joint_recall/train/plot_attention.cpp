#include "train/plot_attention.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <map>

#include "hax/hax.h"
#include "train/evaluate.hpp"
#include "train/svg.hpp"

namespace joint_recall {
namespace {

constexpr double kPanel = 460.0;
constexpr double kLeft = 64.0;
constexpr double kBetween = 78.0;
constexpr double kRight = 24.0;
constexpr double kTop = 56.0;
constexpr double kPanelTitle = 40.0;
constexpr double kBelowPanel = 76.0;
constexpr double kLeastLabelRoom = 13.0;
constexpr std::string_view kFaint = "#868e96";
constexpr std::string_view kAnswer = "#e03131";

struct Rgb {
  double r, g, b;
  std::string text() const {
    return fmt::format("#{:02x}{:02x}{:02x}", static_cast<int>(std::lround(r)),
                       static_cast<int>(std::lround(g)), static_cast<int>(std::lround(b)));
  }
};

struct PatternLook {
  uint32_t bit;
  const char* name;
  Rgb colour;
};
constexpr std::array<PatternLook, 6> kPatterns = {{
    {HAX_PATTERN_FULL, "full", {134, 142, 150}},
    {HAX_PATTERN_SLIDING_WINDOW, "sliding_window", {64, 160, 90}},
    {HAX_PATTERN_SINK, "sink", {214, 110, 160}},
    {HAX_PATTERN_DILATED, "dilated", {190, 150, 40}},
    {HAX_PATTERN_LSH, "sign_bin_lsh", {66, 133, 220}},
    {HAX_PATTERN_KEY_SELECTION, "key_selection", {245, 150, 60}},
}};

constexpr Rgb kSeveral = {94, 53, 177};  // keys that more than one pattern chooses

std::pair<std::string, Rgb> look_of(uint32_t bits) {
  std::string name;
  Rgb colour = kSeveral;
  for (const PatternLook& look : kPatterns) {
    if ((bits & look.bit) == 0) continue;
    name += (name.empty() ? "" : " and ") + std::string(look.name);
    if (bits == look.bit) colour = look.colour;
  }
  return {name, colour};
}

constexpr int kLevels = 12;
constexpr double kLeastWeight = 0.005;

// The square root keeps small weights visible.
int level_of(double weight) {
  if (weight < kLeastWeight) return 0;
  return std::clamp(static_cast<int>(std::ceil(std::sqrt(weight) * kLevels)), 1, kLevels);
}

// White to dark blue through green.
std::string level_colour(int level) {
  const double t = static_cast<double>(level) / kLevels;
  constexpr std::array<Rgb, 4> kStops = {
      {{237, 246, 236}, {123, 204, 196}, {43, 140, 190}, {8, 48, 107}}};
  const double at = t * (kStops.size() - 1);
  const auto i = std::min(static_cast<size_t>(at), kStops.size() - 2);
  const double f = at - static_cast<double>(i);
  const Rgb &a = kStops[i], &b = kStops[i + 1];
  return Rgb{a.r + f * (b.r - a.r), a.g + f * (b.g - a.g), a.b + f * (b.b - a.b)}.text();
}

// One class of cells for each (query, key), 0 for none.
struct Cells {
  int64_t length = 0;
  std::vector<uint32_t> kind;

  // Runs of equal cells of a row as path data, by kind.
  std::map<uint32_t, std::string> paths() const {
    std::map<uint32_t, std::string> result;
    for (int64_t i = 0; i < length; ++i) {
      const uint32_t* row = kind.data() + i * length;
      for (int64_t j = 0; j <= i;) {
        int64_t end = j + 1;
        while (end <= i && row[end] == row[j]) ++end;
        if (row[j] != 0) {
          fmt::format_to(std::back_inserter(result[row[j]]), "M{},{}h{}v1h-{}z", j, i, end - j,
                         end - j);
        }
        j = end;
      }
    }
    return result;
  }
};

Cells pattern_cells(const LayerAttention& layer) {
  const auto area = static_cast<size_t>(layer.length * layer.length);
  Cells cells{layer.length, std::vector<uint32_t>(area, 0u)};
  for (size_t i = 0; i < layer.patterns.size(); ++i) cells.kind[i % area] |= layer.patterns[i];
  return cells;
}

Cells weight_cells(const LayerAttention& layer) {
  const auto area = static_cast<size_t>(layer.length * layer.length);
  std::vector<double> weight(area, 0.0);
  for (size_t i = 0; i < layer.probability.size(); ++i) {
    weight[i % area] += double{layer.probability[i]} / static_cast<double>(layer.num_heads);
  }
  Cells cells{layer.length, std::vector<uint32_t>(area)};
  std::transform(weight.begin(), weight.end(), cells.kind.begin(),
                 [](double w) { return static_cast<uint32_t>(level_of(w)); });
  return cells;
}

// (asked position, position of the value in the first half that answers it)
std::vector<std::pair<int, int>> answers(const Item& item) {
  const ItemShape& shape = item.shape();
  std::map<std::pair<int, int>, int> position;
  for (int row = 0; row < shape.n_context; ++row) {
    const int start = shape.row_position(0, row);
    for (int k = 0; k < shape.n_key; ++k) {
      position[{item.token(start), item.token(start + 1 + 2 * k)}] = start + 2 + 2 * k;
    }
  }
  std::vector<std::pair<int, int>> result;
  for (int ask = 0; ask < shape.asked_count(); ++ask) {
    const int asked = shape.asked_position(ask);
    const int context = item.token(shape.row_position(1, ask / shape.n_key));
    result.emplace_back(asked, position.at({context, item.token(asked)}));
  }
  return result;
}

class Panel {
 public:
  Panel(Svg& svg, double x, double y, const Item& item, const Vocabulary& vocabulary)
      : svg_(svg),
        x_(x),
        y_(y),
        item_(item),
        vocabulary_(vocabulary),
        scale_(kPanel / (item.size() - 1)) {}

  void frame(const std::string& title) {
    svg_.text(x_, y_ - 14, title, {.size = 13, .bold = true});
    const ItemShape& shape = item_.shape();
    const int stride =
        std::max(1, static_cast<int>(std::ceil(kLeastLabelRoom / (shape.row_length() * scale_))));
    for (int half = 0; half < 2; ++half) {
      for (int row = 0; row < shape.n_context; ++row) {
        const int begin = shape.row_position(half, row);
        grid(begin);
        if (row % stride != 0) continue;
        const double middle = (begin + 0.5 * shape.row_length()) * scale_;
        const std::string label = vocabulary_.text(item_.token(begin));
        svg_.text(x_ - 6, y_ + middle + 4, label, {.size = 10, .anchor = "end"});
        svg_.text(x_ + middle, y_ + kPanel + 14, label, {.size = 10, .anchor = "middle"});
      }
    }
    svg_.text(x_ - 38, y_ + kPanel / 2, "query: the token that looks back",
              {.size = 11, .anchor = "middle", .fill = kFaint, .turn = -90});
    svg_.text(x_ + kPanel / 2, y_ + kPanel + 32, "key: the token looked at, by context",
              {.size = 11, .anchor = "middle", .fill = kFaint});
  }

  void cells(const std::map<uint32_t, std::string>& paths, uint32_t kind, const std::string& fill) {
    const auto path = paths.find(kind);
    if (path != paths.end()) svg_.boxes(x_, y_, scale_, path->second, fill);
  }

  void finish() {
    const double half = item_.shape().separator_position() * scale_;
    const Svg::Stroke stroke{.colour = "#495057", .width = 1.0, .dashes = "4 3"};
    svg_.line(x_ + half, y_, x_ + half, y_ + kPanel, stroke);
    svg_.line(x_, y_ + half, x_ + kPanel, y_ + half, stroke);
    svg_.outline(x_, y_, kPanel, kPanel, {.colour = "#adb5bd"});
  }

  void mark_answers() {
    const double grow = std::max(0.0, 2.0 - scale_ / 4);
    for (const auto& [query, key] : answers(item_)) {
      svg_.outline(x_ + key * scale_ - grow, y_ + query * scale_ - grow, scale_ + 2 * grow,
                   scale_ + 2 * grow, {.colour = kAnswer, .width = 1.0});
    }
  }

 private:
  void grid(int position) {
    const double at = position * scale_;
    svg_.line(x_ + at, y_, x_ + at, y_ + kPanel, {.colour = "#f1f3f5"});
    svg_.line(x_, y_ + at, x_ + kPanel, y_ + at, {.colour = "#f1f3f5"});
  }

  Svg& svg_;
  double x_, y_;
  const Item& item_;
  const Vocabulary& vocabulary_;
  double scale_;
};

void draw_patterns(Svg& svg, double x, double y, const LayerAttention& layer, Panel panel) {
  panel.frame(fmt::format("layer {}: keys each query may attend", layer.layer));
  const std::map<uint32_t, std::string> paths = pattern_cells(layer).paths();
  double legend_x = x;
  for (const auto& [bits, path] : paths) {
    const auto [name, colour] = look_of(bits);
    panel.cells(paths, bits, colour.text());
    svg.box(legend_x, y + kPanel + 44, 11, 11, colour.text());
    svg.text(legend_x + 16, y + kPanel + 54, name, {.size = 11});
    legend_x += 34 + 6.6 * static_cast<double>(name.size());
  }
  panel.finish();
}

void draw_weights(Svg& svg, double x, double y, const LayerAttention& layer, Panel panel) {
  panel.frame(
      fmt::format("layer {}: attention weight{}", layer.layer,
                  layer.num_heads > 1 ? fmt::format(", mean of {} heads", layer.num_heads) : ""));
  const std::map<uint32_t, std::string> paths = weight_cells(layer).paths();
  for (int level = 1; level <= kLevels; ++level) {
    panel.cells(paths, static_cast<uint32_t>(level), level_colour(level));
  }
  panel.finish();
  panel.mark_answers();

  const double top = y + kPanel + 44;
  svg.text(x, top + 10, "0", {.size = 11});
  constexpr double kStep = 12.0;
  for (int level = 1; level <= kLevels; ++level) {
    svg.box(x + 14 + (level - 1) * kStep, top, kStep + 0.5, 11, level_colour(level));
  }
  const double end = x + 14 + kLevels * kStep;
  svg.text(end + 5, top + 10, "1 (shaded by the square root)", {.size = 11});
  svg.outline(end + 196, top, 10, 10, {.colour = kAnswer, .width = 1.0});
  svg.text(end + 211, top + 10, "value asked for", {.size = 11});
}

}  // namespace

std::string attention_svg(const std::vector<LayerAttention>& layers, const Item& item,
                          const Vocabulary& vocabulary, const std::string& title) {
  const double row_height = kPanelTitle + kPanel + kBelowPanel;
  Svg svg(kLeft + 2 * kPanel + kBetween + kRight,
          kTop + static_cast<double>(layers.size()) * row_height);
  svg.text(kLeft, 28, title, {.size = 15, .bold = true});
  svg.text(kLeft, 46, "dashed: the separator between the table told and the table asked",
           {.size = 11, .fill = kFaint});
  double y = kTop + kPanelTitle;
  for (const LayerAttention& layer : layers) {
    const double second = kLeft + kPanel + kBetween;
    draw_patterns(svg, kLeft, y, layer, Panel(svg, kLeft, y, item, vocabulary));
    draw_weights(svg, second, y, layer, Panel(svg, second, y, item, vocabulary));
    y += row_height;
  }
  return svg.finish();
}

std::vector<LayerAttention> item_attention(Model& model, const Split& split, int64_t index) {
  BatchSource source(split, 1, Repeat::kOnce, true);
  return model.attention(source.view(index), 0);
}

}  // namespace joint_recall
