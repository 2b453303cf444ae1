#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "profile/profile.hpp"

namespace joint_recall {
namespace {

// Of the time that the bytes alone would take.
double roofline_share(const OperationRow& row, double bytes_per_second) {
  if (row.bytes == 0.0 || row.seconds == 0.0 || bytes_per_second == 0.0) return 0.0;
  return row.bytes / bytes_per_second / row.seconds;
}

std::string percent_or_blank(double share) {
  return share == 0.0 ? "" : fmt::format("{:.1f} %", 100.0 * share);
}

}  // namespace

std::string profile_text(const Profile& profile) {
  const auto steps = static_cast<double>(profile.steps);
  double all = 0.0;
  for (const OperationRow& row : profile.operations) all += row.seconds;
  const auto micro = [&](double seconds) { return 1e6 * seconds / steps; };
  const auto each = [&](int64_t calls) { return static_cast<double>(calls) / steps; };

  std::string text = fmt::format("{}, on {}\na step takes {:.1f} us (mean of {})", profile.title,
                                 profile.device, 1e6 * profile.step_seconds, profile.steps);
  if (!profile.kernels.empty()) {
    text += fmt::format("; kernels run in {:.1f} us of a step watched, and add up to {:.1f} us",
                        1e6 * profile.busy_seconds, micro(all));
  }
  text += "\n\n";
  text += fmt::format("{:<34} {:>8} {:>10} {:>8} {:>10} {:>9}\n", "operation", "calls", "us",
                      "share", "MB at least", "roofline");
  for (const OperationRow& row : profile.operations) {
    text += fmt::format("{:<34} {:>8.2f} {:>10.1f} {:>8} {:>10} {:>9}\n",
                        row.operation.empty() ? "(other)" : row.operation, each(row.calls),
                        micro(row.seconds), percent_or_blank(row.seconds / all),
                        row.bytes == 0.0 ? "" : fmt::format("{:.2f}", row.bytes / steps / 1e6),
                        percent_or_blank(roofline_share(row, profile.bytes_per_second)));
  }
  if (profile.kernels.empty()) return text;
  text +=
      fmt::format("\n{:<58} {:<26} {:>8} {:>10} {:>8}\n", "kernel", "of", "calls", "us", "share");
  for (const KernelRow& row : profile.kernels) {
    text += fmt::format("{:<58} {:<26} {:>8.2f} {:>10.1f} {:>8}\n", row.kernel, row.operation,
                        each(row.calls), micro(row.seconds), percent_or_blank(row.seconds / all));
  }
  return text;
}

std::string profile_json(const Profile& profile) {
  using Json = nlohmann::ordered_json;
  const auto steps = static_cast<double>(profile.steps);
  Json json = {{"title", profile.title},
               {"device", profile.device},
               {"steps", profile.steps},
               {"step_us", 1e6 * profile.step_seconds},
               {"busy_us", 1e6 * profile.busy_seconds},
               {"operations", Json::array()},
               {"kernels", Json::array()}};
  for (const OperationRow& row : profile.operations) {
    Json entry = {{"operation", row.operation},
                  {"calls", static_cast<double>(row.calls) / steps},
                  {"us", 1e6 * row.seconds / steps}};
    if (row.bytes != 0.0) entry["bytes"] = row.bytes / steps;
    const double share = roofline_share(row, profile.bytes_per_second);
    if (share != 0.0) entry["roofline"] = share;
    json["operations"].push_back(entry);
  }
  for (const KernelRow& row : profile.kernels) {
    json["kernels"].push_back({{"kernel", row.kernel},
                               {"operation", row.operation},
                               {"calls", static_cast<double>(row.calls) / steps},
                               {"us", 1e6 * row.seconds / steps}});
  }
  return json.dump(2) + "\n";
}

}  // namespace joint_recall
