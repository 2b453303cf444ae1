// A picture put together from lines, boxes and text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace joint_recall {

std::string xml_escape(std::string_view text);

class Svg {
 public:
  Svg(double width, double height);

  struct TextStyle {
    double size = 12.0;
    std::string_view anchor = "start";  // start, middle, end
    std::string_view fill = "#343a40";
    bool bold = false;
    double turn = 0.0;  // degrees, clockwise
    bool halo = false;  // keeps it readable across lines
  };
  void text(double x, double y, std::string_view content, const TextStyle& style);
  void text(double x, double y, std::string_view content) { text(x, y, content, TextStyle{}); }

  struct Stroke {
    std::string_view colour = "#343a40";
    double width = 1.0;
    std::string_view dashes = {};
    double opacity = 1.0;
  };
  void line(double x1, double y1, double x2, double y2, const Stroke& stroke);
  struct Point {
    double x, y;
  };
  void polyline(const std::vector<Point>& points, const Stroke& stroke);

  void box(double x, double y, double width, double height, std::string_view fill);
  void outline(double x, double y, double width, double height, const Stroke& stroke);
  void dot(double x, double y, double radius, std::string_view fill);
  // Boxes given as path data ("M0,0h3v1h-3z...") in units of `scale`, from (x, y) on.
  void boxes(double x, double y, double scale, const std::string& path, std::string_view fill);

  std::string finish() const;

 private:
  double width_, height_;
  std::string body_;
};

}  // namespace joint_recall
