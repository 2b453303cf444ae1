// A run of this program as a process of its own.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace joint_recall {

class Child {
 public:
  // Appends what the process prints to `log`. It is asked to stop when this process ends.
  Child(const std::vector<std::string>& args, const std::filesystem::path& log);
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // Once it has ended: its exit code, or minus the signal that ended it.
  std::optional<int> poll();
  void ask_to_stop();

 private:
  pid_t process_ = -1;
  std::optional<int> code_;
};

}  // namespace joint_recall
