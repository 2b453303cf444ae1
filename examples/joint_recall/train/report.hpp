// Lines for people, on stdout.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>

namespace joint_recall {

template <class... Args>
void say(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(format, std::forward<Args>(args)...);
  fmt::print("\n");
  std::fflush(stdout);
}

std::string percent(double share);    // "98.7 %"
std::string grouped(int64_t number);  // "1,440,000"
std::string shell_quoted(const std::string& text);

// How this program was called, to be shown in lines that people can copy.
void set_program_name(const std::string& name);
const std::string& program_name();

}  // namespace joint_recall
