// The built program as its users meet it: what it leaves, and going on after any kind of end.
#include "train_program.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

namespace joint_recall {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST_F(ProgramTest, TrainsAndTellsWhatItMade) {
  const Result result = run(train_args("runs"));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");  // no progress bar where there is no terminal
  const std::filesystem::path folder = run_folder("runs");
  EXPECT_EQ(folder.filename(),
            "mamba2+sign_bin_lsh+key_selection_lr_0.004_gate_loss_weight_0.1_seed_4");
  EXPECT_EQ(names_in(folder),
            (std::vector<std::string>{"attention.svg", "best.safetensors", "curves.svg", "item.svg",
                                      "last.safetensors", "metrics.csv", "metrics.jsonl",
                                      "summary.json", "timing.jsonl"}));
  const std::vector<std::string> lines = lines_of(result.out);
  EXPECT_TRUE(std::regex_match(lines.back(), std::regex("test accuracy: [0-9]+\\.[0-9] %")))
      << lines.back();
  for (const char* name : {"curves.svg", "attention.svg", "item.svg", "best.safetensors"}) {
    EXPECT_TRUE(contains(result.out, name));
  }
  EXPECT_TRUE(contains(result.out, "train --resume runs/"));

  const auto summary = nlohmann::json::parse(read_file(folder / "summary.json"));
  EXPECT_EQ(summary["steps"], 12);
  EXPECT_EQ(summary["test_items"], 20);
}

TEST_F(ProgramTest, MetricsAreTheSameInBothForms) {
  ASSERT_EQ(run(train_args("runs")).code, 0);
  const std::filesystem::path folder = run_folder("runs");
  const std::vector<std::string> json = lines_of(read_file(folder / "metrics.jsonl"));
  const std::vector<std::string> csv = lines_of(read_file(folder / "metrics.csv"));
  // Training at 4, 8, 12 and validation at 6, 12.
  ASSERT_EQ(json.size(), 5u);
  ASSERT_EQ(csv.size(), 6u);
  EXPECT_EQ(csv[0], "step,split,loss,gate_loss,accuracy,lr");
  const int steps[] = {4, 6, 8, 12, 12};
  for (size_t i = 0; i < json.size(); ++i) {
    const auto record = nlohmann::json::parse(json[i]);
    std::vector<std::string> fields;
    std::istringstream stream(csv[i + 1] + ",end");
    for (std::string field; std::getline(stream, field, ',');) fields.push_back(field);
    ASSERT_EQ(fields.size(), 7u) << csv[i + 1];
    EXPECT_EQ(record["step"], steps[i]);
    EXPECT_EQ(std::stoi(fields[0]), steps[i]);
    EXPECT_EQ(record["split"], fields[1]);
    EXPECT_EQ(record["loss"].get<double>(), std::stod(fields[2]));
    EXPECT_EQ(record["accuracy"].get<double>(), std::stod(fields[4]));
    EXPECT_EQ(record.contains("lr"), fields[1] == "train");
    EXPECT_EQ(fields[5].empty(), fields[1] == "valid");
  }
  EXPECT_EQ(nlohmann::json::parse(json[0])["lr"], 0.004 * 3 / 4);
}

TEST_F(ProgramTest, ASecondRunGetsAFolderOfItsOwn) {
  ASSERT_EQ(run(train_args("runs")).code, 0);
  const std::filesystem::path first = run_folder("runs");
  const std::string before = read_file(first / "last.safetensors");
  ASSERT_EQ(run(train_args("runs")).code, 0);
  const std::vector<std::string> names = names_in(folder_ / "runs");
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names[1], names[0] + "_2");
  EXPECT_TRUE(read_file(first / "last.safetensors") == before);
  expect_equal_runs(folder_ / "runs" / names[0], folder_ / "runs" / names[1]);
}

struct ResumeCase {
  const char* name;
  std::vector<std::string> more;
};
void PrintTo(const ResumeCase& test, std::ostream* out) { *out << test.name; }

class ResumeTest : public ProgramTest, public ::testing::WithParamInterface<ResumeCase> {};

// Stopped at 7, inside a line of metrics and between validations, then at 12, then on to 18.
TEST_P(ResumeTest, GoesOnWithEqualBits) {
  const std::vector<std::string> args = train_args("whole") + GetParam().more;
  ASSERT_EQ(run(args + std::vector<std::string>{"--step", "18"}).code, 0);
  std::vector<std::string> part = train_args("parts") + GetParam().more;
  ASSERT_EQ(run(part + std::vector<std::string>{"--step", "7"}).code, 0);
  const std::string folder = run_folder("parts").string();
  for (const char* step : {"12", "18"}) {
    const Result result = run({"train", "--resume", folder, "--step", step});
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(contains(result.out, "resuming"));
  }
  expect_equal_runs(run_folder("whole"), folder);
}

INSTANTIATE_TEST_SUITE_P(
    , ResumeTest,
    ::testing::Values(ResumeCase{"Hax", {}},
                      ResumeCase{"FixedHash", {"--hash_redraw", "once", "--statistics", "causal"}},
                      ResumeCase{"Accumulated", {"--grad_acc", "3", "--bsz", "4"}},
                      ResumeCase{"Padded", {"--no-packing"}},
                      ResumeCase{"Bf16", {"--precision", "bf16"}}),
    [](const auto& test) { return test.param.name; });

class StopTest : public ProgramTest, public ::testing::WithParamInterface<int> {};

TEST_P(StopTest, SavesAndGoesOnWithEqualBits) {
  const std::vector<std::string> more = {"--step", "200", "--valid_step", "50"};
  ASSERT_EQ(run(train_args("whole") + more).code, 0);
  const std::filesystem::path metrics = run_folder("whole").filename() / "metrics.jsonl";
  std::string folder;
  {
    Program program(folder_, train_args("stopped") + more, {});
    ASSERT_TRUE(program.wait_until([&] {
      std::error_code none;
      return std::filesystem::file_size(folder_ / "stopped" / metrics, none) > 500 && !none;
    }));
    program.signal(GetParam());
    const int code = program.wait();
    folder = run_folder("stopped").string();
    if (GetParam() == SIGKILL) {
      EXPECT_EQ(code, -SIGKILL);
    } else {
      EXPECT_EQ(code, 128 + GetParam()) << program.err();
      EXPECT_TRUE(contains(program.out(), "train --resume stopped/"));
      EXPECT_TRUE(contains(program.out(), "of 200"));
    }
  }
  const Result result = run({"train", "--resume", folder});
  ASSERT_EQ(result.code, 0) << result.err;
  expect_equal_runs(run_folder("whole"), folder);
}

INSTANTIATE_TEST_SUITE_P(, StopTest, ::testing::Values(SIGINT, SIGTERM, SIGKILL),
                         [](const auto& test) -> std::string {
                           if (test.param == SIGINT) return "Interrupt";
                           return test.param == SIGTERM ? "Terminate" : "Kill";
                         });

// Killed after the last checkpoint was written and before the best of the same step.
TEST_F(ProgramTest, ALostBestIsFoundInTheLast) {
  ASSERT_EQ(run(train_args("whole")).code, 0);
  ASSERT_EQ(run(train_args("parts") + std::vector<std::string>{"--step", "6"}).code, 0);
  const std::filesystem::path folder = run_folder("parts");
  std::filesystem::remove(folder / "best.safetensors");
  write_file(folder / ".best.safetensors.tmp", "half a file");
  ASSERT_EQ(run({"train", "--resume", folder, "--step", "12"}).code, 0);
  expect_equal_runs(run_folder("whole"), folder);
}

TEST_F(ProgramTest, ATargetEndsTheRunAndCanBeGivenUp) {
  ASSERT_EQ(run(train_args("whole")).code, 0);
  const Result early =
      run(train_args("parts") + std::vector<std::string>{"--target_accuracy", "0.0001"});
  ASSERT_EQ(early.code, 0) << early.err;
  const std::filesystem::path folder = run_folder("parts");
  EXPECT_EQ(nlohmann::json::parse(read_file(folder / "summary.json"))["steps"], 6);
  EXPECT_TRUE(contains(early.out, "--step 12 --target_accuracy 0"));
  ASSERT_EQ(run({"train", "--resume", folder, "--target_accuracy", "0.98"}).code, 0);
  for (const char* name : {"last.safetensors", "metrics.jsonl", "metrics.csv", "summary.json"}) {
    EXPECT_TRUE(read_file(run_folder("whole") / name) == read_file(folder / name)) << name;
  }
}

TEST_F(ProgramTest, ACheckpointCanBeTestedAndShown) {
  ASSERT_EQ(run(train_args("runs")).code, 0);
  const std::filesystem::path folder = run_folder("runs");
  const std::string best = folder / "best.safetensors";
  const auto summary = nlohmann::json::parse(read_file(folder / "summary.json"));
  const Result test = run({"eval", "--checkpoint", best, "--data_dir", "data", "--bsz", "8"});
  ASSERT_EQ(test.code, 0) << test.err;
  char line[64];
  std::snprintf(line, sizeof line, "test accuracy: %.1f %%",
                100.0 * summary["test_accuracy"].get<double>());
  EXPECT_EQ(lines_of(test.out).back(), line);
  const Result valid =
      run({"eval", "--checkpoint", best, "--data_dir", "data", "--split", "valid"});
  EXPECT_TRUE(contains(valid.out, "valid accuracy: ")) << valid.err;

  const Result dump =
      run({"dump", "--data_dir", "data", "--split", "train", "--item", "3", "--checkpoint", best,
           "--svg", "item.svg", "--attention", "attention.svg"});
  ASSERT_EQ(dump.code, 0) << dump.err;
  EXPECT_TRUE(contains(dump.out, "sep"));
  EXPECT_TRUE(contains(read_file(folder_ / "item.svg"), "</svg>"));
  EXPECT_TRUE(contains(read_file(folder_ / "attention.svg"), "layer 1: attention weight"));
}

TEST_F(ProgramTest, EvalShowsSizesApart) {
  GeneratorArgs args = fixed_size_args(2, 3, 4, 10, 4);
  args.max_n_context = 3;
  create_dataset(folder_ / "sizes", args);
  std::vector<std::string> train = train_args("runs");
  train[2] = "sizes";
  ASSERT_EQ(run(train).code, 0);
  const Result result =
      run({"eval", "--checkpoint", run_folder("runs") / "last.safetensors", "--data_dir", "sizes"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(contains(result.out, "contexts \\ keys"));
  EXPECT_TRUE(std::regex_search(result.out, std::regex("\n +2 +[0-9.]+\n +3 +[0-9.]+\n")))
      << result.out;
}

// Chance is 25 %; seeds 1 and 2 reach 93.6 and 96.8 % here.
TEST_F(ProgramTest, LearnsSmallTables) {
  create_dataset(folder_ / "tables", fixed_size_args(2, 2, 4, 3000, 200));
  const Result result =
      run({"train", "--data_dir", "tables", "--save_dir", "runs", "--bsz", "32", "--step", "250",
           "--valid_step", "50", "--warmup_step", "40", "--lr", "0.006", "--seed", "2"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto summary = nlohmann::json::parse(read_file(run_folder("runs") / "summary.json"));
  EXPECT_GE(summary["test_accuracy"].get<double>(), 0.85) << result.out;
}

TEST_F(ProgramTest, MakesDataSets) {
  const std::vector<std::string> args = {"create-dataset",
                                         "--data_dir",
                                         "made",
                                         "--max_n_context",
                                         "5",
                                         "--max_n_key",
                                         "6",
                                         "--n_value",
                                         "4",
                                         "--n_train_per_context_key",
                                         "3",
                                         "--n_test_per_context_key",
                                         "2",
                                         "--seed",
                                         "9"};
  const Result made = run(args + std::vector<std::string>{"--text", "text"});
  ASSERT_EQ(made.code, 0) << made.err;
  const Dataset dataset = open_dataset(folder_ / "made");
  EXPECT_EQ(dataset.train.size(), 6);
  EXPECT_EQ(dataset.test.size(), 4);
  EXPECT_EQ(dataset.args.seed, 9);
  EXPECT_EQ(names_in(folder_ / "text").size(), 6u);
  expect_equal(dataset, open_dataset(folder_ / "text"));
  EXPECT_TRUE(contains(run(args).out, "there already"));
}

}  // namespace
}  // namespace joint_recall
