// What `profile` shows, and the learning rate's way down.
#include <nlohmann/json.hpp>

#include "model/operation.hpp"
#include "profile/profiler.hpp"
#include "train/trainer.hpp"
#include "train_program.hpp"

namespace joint_recall {
namespace {

TEST_F(ProgramTest, ProfilesAStep) {
  const Result result = run({"profile", "--data_dir", "data", "--device", "cpu", "--bsz", "8",
                             "--num_threads", "1", "--base_arch", "mamba2", "--sparse_arch",
                             "key_selection", "--steps", "3", "--json", "p.json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(read_file(folder_ / "p.json"));
  double sum = 0.0;
  std::map<std::string, nlohmann::json> rows;
  for (const auto& row : json["operations"]) {
    rows[row["operation"]] = row;
    sum += row["us"].get<double>();
  }
  EXPECT_TRUE(contains(result.out, "ssd_backward"));
  // Two layers, once a step each; x, dt, B, C and y of every token at least.
  ASSERT_TRUE(rows.contains("ssd_forward"));
  EXPECT_EQ(rows["ssd_forward"]["calls"], 2.0);
  EXPECT_GT(rows["ssd_forward"]["bytes"].get<double>(), 1000.0);
  EXPECT_FALSE(rows.contains("lsh_hash_forward"));
  EXPECT_GT(rows[""]["us"].get<double>(), 0.0);  // what is no operation of libhax
  EXPECT_GT(sum, 0.5 * json["step_us"].get<double>());
  EXPECT_TRUE(contains(run({"profile", "--data_dir", "data", "--steps", "0"}).err,
                       "--steps: expected 1 or more, got 0"));
}

TEST(Profiler, ChargesTimeToTheInnermostOperation) {
  Profile profile;
  profile.steps = 1;
  make_cpu_profiler()->measure(
      [] {
        const auto wait = [](int milliseconds) {
          std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
        };
        const OperationScope outer({.name = "outer", .bytes = 8.0});
        wait(20);
        for (int i = 0; i < 2; ++i) {
          const OperationScope inner({.name = "inner", .bytes = 100.0});
          wait(30);
        }
      },
      profile);
  std::map<std::string, OperationRow> rows;
  for (const OperationRow& row : profile.operations) rows[row.operation] = row;
  EXPECT_EQ(rows["outer"].calls, 1);
  EXPECT_EQ(rows["inner"].calls, 2);
  EXPECT_EQ(rows["inner"].bytes, 200.0);
  EXPECT_GE(rows["outer"].seconds, 0.02);
  EXPECT_GE(rows["inner"].seconds, 0.06);
  EXPECT_LT(rows["outer"].seconds, rows["inner"].seconds);
  const OperationScope unwatched({.name = "later"});
}

TEST(LearningRate, FallsOverTheLastSteps) {
  TrainSettings settings;
  settings.lr = 0.1;
  settings.step = 100;
  settings.warmup_step = 10;
  EXPECT_DOUBLE_EQ(learning_rate(settings, 100), 0.1);
  settings.decay_step = 20;
  EXPECT_DOUBLE_EQ(learning_rate(settings, 6), 0.05);
  EXPECT_DOUBLE_EQ(learning_rate(settings, 81), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(settings, 91), 0.05);
  EXPECT_DOUBLE_EQ(learning_rate(settings, 100), 0.005);
}

}  // namespace
}  // namespace joint_recall
