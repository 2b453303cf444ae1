#include "sweep/child.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "train/error.hpp"

namespace joint_recall {
namespace {

constexpr const char* kThisProgram = "/proc/self/exe";

// Between fork and exec nothing may be called that takes memory or locks.
[[noreturn]] void become(char** argv, int log, pid_t parent) {
  ::setpgid(0, 0);  // Ctrl-C reaches the sweep alone, which then asks its runs to stop
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::execv(kThisProgram, argv);
  ::_exit(127);
}

}  // namespace

Child::Child(const std::vector<std::string>& args, const std::filesystem::path& log) {
  std::vector<std::string> words = {std::filesystem::read_symlink(kThisProgram).string()};
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int file = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0) {
    throw TrainError(
        fmt::format("cannot open {}: {}", log.string(), std::generic_category().message(errno)));
  }
  const pid_t parent = ::getpid();
  process_ = ::fork();
  if (process_ == 0) become(argv.data(), file, parent);
  const int error = errno;
  ::close(file);
  if (process_ < 0) {
    throw TrainError(
        fmt::format("cannot start a process: {}", std::generic_category().message(error)));
  }
}

Child::~Child() {
  if (code_) return;
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

std::optional<int> Child::poll() {
  int status = 0;
  if (!code_ && ::waitpid(process_, &status, WNOHANG) == process_) {
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  return code_;
}

void Child::ask_to_stop() {
  if (!code_) ::kill(process_, SIGTERM);
}

}  // namespace joint_recall
