#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dataset_fixture.hpp"

namespace joint_recall {

// The program, started in a folder of its own; its output goes to files beside that folder.
class Program {
 public:
  struct Conditions {
    std::optional<rlim_t> file_bytes;
    std::vector<std::pair<std::string, std::string>> environment = {};
    std::string output = "std";  // "<output>out.txt", "<output>err.txt"
  };

  Program(const std::filesystem::path& folder, const std::vector<std::string>& args,
          Conditions conditions)
      : out_(folder / (conditions.output + "out.txt")),
        err_(folder / (conditions.output + "err.txt")) {
    std::vector<std::string> words = {JOINT_RECALL_PROGRAM};
    words.insert(words.end(), args.begin(), args.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    process_ = ::fork();
    if (process_ != 0) return;
    for (const auto& [name, value] : conditions.environment) {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
    redirect(out_, STDOUT_FILENO);
    redirect(err_, STDERR_FILENO);
    if (conditions.file_bytes) {
      const rlimit limit{*conditions.file_bytes, *conditions.file_bytes};
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    if (::chdir(folder.c_str()) == 0) ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    if (running_) {
      ::kill(process_, SIGKILL);
      wait();
    }
  }

  void signal(int number) { ::kill(process_, number); }

  // Exit code, or minus the signal that ended it.
  int wait() {
    int status = 0;
    if (running_) ::waitpid(process_, &status, 0);
    running_ = false;
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return code_;
  }

  // Waits until `condition` holds; false when the program ended before, or after a minute.
  bool wait_until(const std::function<bool()>& condition) {
    for (int i = 0; i < 6000; ++i) {
      if (condition()) return true;
      int status = 0;
      if (::waitpid(process_, &status, WNOHANG) == process_) {
        running_ = false;
        return condition();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  std::string out() const { return read_file(out_); }
  std::string err() const { return read_file(err_); }

 private:
  static void redirect(const std::filesystem::path& path, int descriptor) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ::dup2(file, descriptor);
  }

  std::filesystem::path out_, err_;
  pid_t process_ = -1;
  bool running_ = true;
  int code_ = 0;
};

inline std::vector<std::string> operator+(std::vector<std::string> a,
                                          const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// A small data set in <folder_>/data, and runs of the program beside it.
class ProgramTest : public DatasetTest {
 protected:
  struct Result {
    int code = 0;
    std::string out, err;
  };

  ProgramTest() { create_dataset(folder_ / "data", fixed_size_args(2, 2, 4, 200, 20)); }

  Result run(const std::vector<std::string>& args, Program::Conditions conditions = {}) const {
    Program program(folder_, args, conditions);
    const int code = program.wait();
    return {code, program.out(), program.err()};
  }

  // Trains a small model in the folder `save_dir`; `more` follows.
  static std::vector<std::string> train_args(const std::string& save_dir) {
    return {"train", "--data_dir",   "data",  "--save_dir", save_dir, "--bsz",
            "8",     "--lr",         "0.004", "--step",     "12",     "--warmup_step",
            "4",     "--valid_step", "6",     "--log_step", "4",      "--num_threads",
            "1"};
  }

  std::filesystem::path run_folder(const std::string& save_dir) const {
    const std::vector<std::string> names = names_in(folder_ / save_dir);
    EXPECT_EQ(names.size(), 1u) << save_dir;
    return folder_ / save_dir / names.at(0);
  }
};

// What two equal runs must have in common, byte for byte.
inline void expect_equal_runs(const std::filesystem::path& a, const std::filesystem::path& b) {
  for (const char* name : {"best.safetensors", "last.safetensors", "metrics.jsonl", "metrics.csv",
                           "summary.json", "curves.svg", "attention.svg", "item.svg"}) {
    EXPECT_TRUE(read_file(a / name) == read_file(b / name)) << name << " of " << a << " and " << b;
  }
}

}  // namespace joint_recall
