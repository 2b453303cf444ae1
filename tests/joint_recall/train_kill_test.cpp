// Killed again and again, a run ends with the bits of one that never was.
#include <cstdlib>
#include <random>

#include "train/checkpoint.hpp"
#include "train_program.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

using Clock = std::chrono::steady_clock;

std::string test_device() {
  const char* device = std::getenv("HAX_TEST_DEVICE");
  return device != nullptr && std::string(device) == "cuda" ? "cuda" : "cpu";
}

// Kills come up to twice the time that a run takes to start, and a little more.
TEST_F(ProgramTest, KilledAt20RandomMomentsItGoesOnWithEqualBits) {
  const std::string device = test_device();
  const bool gpu = device == "cuda";
  const std::vector<std::string> more = {"--quick",         "--target_accuracy",  "0",
                                         "--step",          gpu ? "1500" : "400", "--valid_step",
                                         gpu ? "25" : "10", "--device",           device};
  ASSERT_EQ(run(train_args("whole") + more).code, 0);
  const fs::path folder = folder_ / "killed" / run_folder("whole").filename();
  const fs::path last = folder / "last.safetensors";
  const std::vector<std::string> resume = {"train", "--resume", folder.string(), "--device",
                                           device};
  std::mt19937 random(7);
  milliseconds latest{};
  int killed = 0;
  for (int kill = 0; kill < 20; ++kill) {
    Program program(folder_, kill == 0 ? train_args("killed") + more : resume, {});
    if (kill == 0) {
      const Clock::time_point start = Clock::now();
      ASSERT_TRUE(program.wait_until([&] { return fs::exists(last); }));
      latest =
          2 * std::chrono::duration_cast<milliseconds>(Clock::now() - start) + milliseconds(100);
    } else {
      std::this_thread::sleep_for(milliseconds(random() % static_cast<unsigned>(latest.count())));
    }
    program.signal(SIGKILL);
    const int code = program.wait();
    ASSERT_TRUE(code == -SIGKILL || code == 0) << program.err();
    killed += code == -SIGKILL;
    ASSERT_NO_THROW(Checkpoint{last}) << "after kill " << kill;
  }
  EXPECT_GE(killed, 5);  // not by itself
  const Result end = run(resume);
  ASSERT_EQ(end.code, 0) << end.err;
  expect_equal_runs(run_folder("whole"), folder);
}

}  // namespace
}  // namespace joint_recall
