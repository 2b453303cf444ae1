#include "train/progress_bar.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace joint_recall {
namespace {

constexpr auto kRedrawInterval = std::chrono::milliseconds(100);
constexpr int kMostCells = 30;
constexpr int kLeastCells = 6;

int terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

bool stderr_is_terminal() { return ::isatty(STDERR_FILENO) == 1; }

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::lround(std::clamp(seconds, 0.0, 1e9)));
  const int64_t hours = whole / 3600;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

ProgressBar::ProgressBar(std::string label, int64_t total, int64_t done, bool live)
    : label_(std::move(label)), total_(std::max<int64_t>(total, 1)), first_(done), live_(live) {}

ProgressBar::ProgressBar(std::string label, int64_t total, int64_t done)
    : ProgressBar(std::move(label), total, done, stderr_is_terminal()) {}

void ProgressBar::update(int64_t done, const std::string& details) {
  const Clock::time_point now = Clock::now();
  if (!live_ || (drawn_ && done < total_ && now - latest_ < kRedrawInterval)) return;
  latest_ = now;
  drawn_ = true;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  std::string rest = fmt::format("{:3}%", done * 100 / total_);
  if (!details.empty()) rest += "  " + details;
  if (done > first_) {
    const double left =
        elapsed * static_cast<double>(total_ - done) / static_cast<double>(done - first_);
    rest += "  left " + duration_text(left);
  }
  const std::string count = fmt::format("{} {}/{}", label_, done, total_);
  const int columns = terminal_columns() - 1;
  const int room = columns - static_cast<int>(count.size() + rest.size()) - 4;
  std::string line = count;
  if (room >= kLeastCells) {
    const int cells = std::min(room, kMostCells);
    const auto full = static_cast<int>(cells * done / total_);
    line += fmt::format(" [{}{}]", std::string(static_cast<size_t>(full), '='),
                        std::string(static_cast<size_t>(cells - full), ' '));
  }
  line += " " + rest;
  line.resize(std::min(line.size(), static_cast<size_t>(std::max(columns, 1))));
  fmt::print(stderr, "\r{}\x1b[K", line);
  std::fflush(stderr);
}

void ProgressBar::clear() {
  if (!drawn_) return;
  drawn_ = false;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
}

}  // namespace joint_recall
