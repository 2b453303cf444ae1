#include <nlohmann/json.hpp>
#include <vector>

#include "profile/profile.hpp"

namespace joint_recall {

std::string profile_trace(const Profile& profile) {
  // A line for each of the runs that overlap: graphs don't tell which stream a kernel came from.
  std::vector<uint64_t> free_from;
  nlohmann::json events = nlohmann::json::array();
  for (const KernelRun& run : profile.runs) {
    size_t line = 0;
    while (line < free_from.size() && free_from[line] > run.start) ++line;
    if (line == free_from.size()) free_from.push_back(0);
    free_from[line] = run.end;
    events.push_back({{"ph", "X"},
                      {"name", run.kernel},
                      {"cat", run.operation},
                      {"ts", 1e-3 * static_cast<double>(run.start)},
                      {"dur", 1e-3 * static_cast<double>(run.end - run.start)},
                      {"pid", 0},
                      {"tid", line}});
  }
  return nlohmann::json{{"traceEvents", events}}.dump() + "\n";
}

}  // namespace joint_recall
