#include "train/report.hpp"

namespace joint_recall {
namespace {

std::string& stored_name() {
  static std::string name = "joint_recall";
  return name;
}

}  // namespace

std::string percent(double share) { return fmt::format("{:.1f} %", 100.0 * share); }

std::string grouped(int64_t number) {
  std::string digits = std::to_string(number);
  for (auto i = static_cast<int64_t>(digits.size()) - 3; i > (number < 0 ? 1 : 0); i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return digits;
}

std::string shell_quoted(const std::string& text) {
  constexpr const char* kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+:=@%,";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

void set_program_name(const std::string& name) { stored_name() = shell_quoted(name); }
const std::string& program_name() { return stored_name(); }

}  // namespace joint_recall
