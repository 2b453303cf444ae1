#include "train/svg.hpp"

#include <fmt/format.h>

#include <iterator>

namespace joint_recall {
namespace {

std::string attributes(const Svg::Stroke& stroke) {
  std::string text = fmt::format("fill=\"none\" stroke=\"{}\" stroke-width=\"{:.4g}\"",
                                 stroke.colour, stroke.width);
  if (!stroke.dashes.empty()) text += fmt::format(" stroke-dasharray=\"{}\"", stroke.dashes);
  if (stroke.opacity < 1.0) text += fmt::format(" stroke-opacity=\"{:.4g}\"", stroke.opacity);
  return text;
}

}  // namespace

std::string xml_escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&': escaped += "&amp;"; break;
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '"': escaped += "&quot;"; break;
      default: escaped += c;
    }
  }
  return escaped;
}

Svg::Svg(double width, double height) : width_(width), height_(height) {
  box(0, 0, width, height, "#ffffff");
}

void Svg::text(double x, double y, std::string_view content, const TextStyle& style) {
  const std::string turn =
      style.turn == 0.0
          ? ""
          : fmt::format(" transform=\"rotate({:.4g} {:.6g} {:.6g})\"", style.turn, x, y);
  const char* const halo =
      style.halo ? " paint-order=\"stroke\" stroke=\"#ffffff\" stroke-width=\"4\"" : "";
  fmt::format_to(
      std::back_inserter(body_),
      "<text x=\"{:.6g}\" y=\"{:.6g}\" font-size=\"{:.4g}\" text-anchor=\"{}\" fill=\"{}\"{}{}{}>{}"
      "</text>\n",
      x, y, style.size, style.anchor, style.fill, style.bold ? " font-weight=\"bold\"" : "", halo,
      turn, xml_escape(content));
}

void Svg::line(double x1, double y1, double x2, double y2, const Stroke& stroke) {
  fmt::format_to(std::back_inserter(body_),
                 "<line x1=\"{:.6g}\" y1=\"{:.6g}\" x2=\"{:.6g}\" y2=\"{:.6g}\" {}/>\n", x1, y1, x2,
                 y2, attributes(stroke));
}

void Svg::polyline(const std::vector<Point>& points, const Stroke& stroke) {
  if (points.empty()) return;
  body_ += "<polyline points=\"";
  for (const Point& point : points) {
    fmt::format_to(std::back_inserter(body_), "{:.6g},{:.6g} ", point.x, point.y);
  }
  fmt::format_to(std::back_inserter(body_), "\" {} stroke-linejoin=\"round\"/>\n",
                 attributes(stroke));
}

void Svg::box(double x, double y, double width, double height, std::string_view fill) {
  fmt::format_to(
      std::back_inserter(body_),
      "<rect x=\"{:.6g}\" y=\"{:.6g}\" width=\"{:.6g}\" height=\"{:.6g}\" fill=\"{}\"/>\n", x, y,
      width, height, fill);
}

void Svg::outline(double x, double y, double width, double height, const Stroke& stroke) {
  fmt::format_to(std::back_inserter(body_),
                 "<rect x=\"{:.6g}\" y=\"{:.6g}\" width=\"{:.6g}\" height=\"{:.6g}\" {}/>\n", x, y,
                 width, height, attributes(stroke));
}

void Svg::dot(double x, double y, double radius, std::string_view fill) {
  fmt::format_to(std::back_inserter(body_),
                 "<circle cx=\"{:.6g}\" cy=\"{:.6g}\" r=\"{:.4g}\" fill=\"{}\"/>\n", x, y, radius,
                 fill);
}

void Svg::boxes(double x, double y, double scale, const std::string& path, std::string_view fill) {
  fmt::format_to(std::back_inserter(body_),
                 "<path transform=\"translate({:.6g} {:.6g}) scale({:.6g})\" fill=\"{}\" "
                 "shape-rendering=\"crispEdges\" d=\"{}\"/>\n",
                 x, y, scale, fill, path);
}

std::string Svg::finish() const {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.6g}\" height=\"{1:.6g}\" "
      "viewBox=\"0 0 {0:.6g} {1:.6g}\" font-family=\"DejaVu Sans, Helvetica, Arial, "
      "sans-serif\">\n{2}</svg>\n",
      width_, height_, body_);
}

}  // namespace joint_recall
