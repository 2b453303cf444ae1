// Whatever is wrong with what the program is given ends in one sentence that names it.
#include <algorithm>

#include "train_program.hpp"

namespace joint_recall {
namespace {

class BadInputTest : public ProgramTest {
 protected:
  // The program's last words; nothing but them may be on stderr, and nothing may have been made.
  void expect_problem(const std::vector<std::string>& args, const std::string& problem,
                      Program::Conditions limits = {}) const {
    std::string command;
    for (const std::string& arg : args) command += arg + " ";
    SCOPED_TRACE(command);
    const Result result = run(args, limits);
    EXPECT_GT(result.code, 0);
    EXPECT_LT(result.code, 128);
    EXPECT_TRUE(contains(result.err, problem));
    EXPECT_TRUE(result.err.starts_with("joint_recall: ")) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }

  static std::vector<std::string> train_with(const std::vector<std::string>& more) {
    return train_args("runs") + more;
  }
};

TEST_F(BadInputTest, CommandLines) {
  const struct {
    std::vector<std::string> args;
    const char* problem;
  } cases[] = {
      {{}, "subcommand"},
      {{"fly"}, "fly"},
      {{"train", "--learning_rate", "1"}, "--learning_rate"},
      {{"train", "--lr"}, "--lr"},
      {{"train", "--packing", "--no-packing"}, "packing"},
      {train_with({"--sparse_arch", "lsh"}),
       "sparse_arch: expected one of none, full, sliding_window, "},
      {train_with({"--base_arch", "gpt"}), "expected one of mamba, mamba2, samba, got 'gpt'"},
      {train_with({"--base_arch", "samba", "--sparse_arch", "full"}), "sparse_arch"},
      {train_with({"--base_arch", "samba", "--double_width"}), "samba"},
      {train_with({"--lr", "much"}), "--lr: expected a number, got 'much'"},
      {train_with({"--bsz", "0"}), "--bsz: expected 1 or more, got 0"},
      {train_with({"--bsz", "2000000000"}), "batch size"},
      {train_with({"--precision", "fp16"}), "fp32, bf16, got 'fp16'"},
      {train_with({"--device", "gpu"}), "--device: expected cpu, cuda or cuda:N, got 'gpu'"},
      {train_with({"--device", "cuda:0"}), "--device: cuda:0"},
      {train_with({"--resume", "absent"}), "there is no absent"},
      {train_with({"--resume", "data"}), "data is no run's folder"},
      {{"eval", "--data_dir", "data"}, "--checkpoint"},
      {{"eval", "--checkpoint", "absent", "--data_dir", "data"}, "absent"},
      {{"eval", "--checkpoint", "x", "--data_dir", "data", "--split", "dev"},
       "--split: expected train, valid or test, got 'dev'"},
      {{"eval", "--checkpoint", "x", "--data_dir", "data", "--bsz", "0"}, "--bsz"},
      {{"dump", "--data_dir", "data", "--item", "20"}, "no item 20"},
      {{"dump", "--data_dir", "data", "--item", "-1"}, "no item -1"},
      {{"dump", "--data_dir", "data", "--attention", "a.svg"}, "--attention"},
      {{"dump", "--data_dir", "data", "--svg", "absent/a.svg"}, "absent/"},
      {{"create-dataset", "--n_value", "0", "--data_dir", "new"}, "n_value"},
      {{"create-dataset", "--data_dir", "data"}, "other arguments"},
  };
  for (const auto& [args, problem] : cases) expect_problem(args, problem);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs"));
}

TEST_F(BadInputTest, FoldersAndConfigurations) {
  write_file(folder_ / "a_file", "text");
  for (const char* name : {"broken", "unknown", "wrong", "small", "empty"}) {
    std::filesystem::create_directory(folder_ / name);
  }
  write_file(folder_ / "broken/mamba2.json", "{\"hidden_size\": 64,\n oops}");
  write_file(folder_ / "unknown/mamba2.json", "{\"model_type\": \"mamba2\", \"hiden_size\": 64}");
  write_file(folder_ / "wrong/mamba2.json",
             "{\"model_type\": \"mamba2\", \"hidden_size\": \"64\"}");
  write_file(folder_ / "small/mamba2.json", "{\"model_type\": \"mamba2\", \"vocab_size\": 12}");
  const auto config = [](const char* dir) {
    return train_with({"--sparse_arch", "full", "--config_dir", dir});
  };
  expect_problem(config("absent"), "absent/mamba2.json");
  expect_problem(config("broken"),
                 "broken/mamba2.json: expected JSON, got a parse error at byte 22");
  expect_problem(config("unknown"), "hiden_size");
  expect_problem(config("wrong"), "hidden_size");
  expect_problem(config("small"),
                 "vocab_size: the data set data has 18 token ids, but the model only 12");

  expect_problem(train_with({"--data_dir", "absent"}), "no folder absent");
  expect_problem(train_with({"--data_dir", "a_file"}), "a_file");
  expect_problem(train_with({"--data_dir", "empty"}), "empty holds no data set");
  expect_problem(train_with({"--save_dir", "a_file/runs"}), "a_file/runs");
  expect_problem(train_with({"--save_dir", "/proc/runs"}), "/proc/runs");
  expect_problem({"create-dataset", "--data_dir", "a_file"}, "a_file");
  EXPECT_EQ(read_file(folder_ / "a_file"), "text");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs"));
}

TEST_F(BadInputTest, DataSets) {
  const std::filesystem::path train = folder_ / "data/train.jrd";
  const std::string bytes = read_file(train);
  write_file(train, bytes.substr(0, bytes.size() - 1));
  expect_problem(train_with({}), "train.jrd");
  std::string changed = bytes;
  changed.back() = static_cast<char>(changed.back() ^ 1);
  write_file(train, changed);
  expect_problem(train_with({}), "train.jrd");
  write_file(folder_ / "data/dataset.json", "{");
  expect_problem(train_with({}), "dataset.json");
}

class BadCheckpointTest : public BadInputTest {
 protected:
  BadCheckpointTest() {
    EXPECT_EQ(run(train_args("good")).code, 0);
    run_ = run_folder("good");
    last_ = run_ / "last.safetensors";
    bytes_ = read_file(last_);
  }

  // Neither testing nor resuming takes the file, and it stays as it is.
  void expect_rejected(const std::string& content, const std::string& problem) const {
    write_file(last_, content);
    expect_problem({"eval", "--checkpoint", last_, "--data_dir", "data"}, problem);
    expect_problem({"train", "--resume", run_, "--step", "20"}, problem);
    EXPECT_TRUE(read_file(last_) == content);
    write_file(last_, bytes_);
  }

  std::filesystem::path run_, last_;
  std::string bytes_;
};

TEST_F(BadCheckpointTest, Files) {
  expect_rejected("", "last.safetensors: not a safetensors file");
  expect_rejected("PK\x03\x04 not what it seems to be",
                  "last.safetensors: truncated or not a safetensors");
  expect_rejected(bytes_.substr(0, bytes_.size() / 2), "last.safetensors: truncated");
  expect_rejected(bytes_.substr(0, 100), "last.safetensors: truncated");
  expect_rejected(bytes_ + "x", "last.safetensors: the tensors end");
  std::string damaged = bytes_;
  damaged[damaged.size() - 1000] = static_cast<char>(damaged[damaged.size() - 1000] ^ 4);
  expect_rejected(damaged, "last.safetensors: damaged");
  const std::string header = "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
  expect_rejected(std::string("\x36\0\0\0\0\0\0\0", 8) + header + "abcd",
                  "last.safetensors: not a checkpoint of this trainer");
}

TEST_F(BadCheckpointTest, OtherRuns) {
  const auto resume = [&](const std::vector<std::string>& more) {
    return std::vector<std::string>{"train", "--resume", run_} + more;
  };
  expect_problem(resume({"--lr", "0.1"}), "--lr: ");
  expect_problem(resume({"--base_arch", "mamba"}), "is of a run with mamba2, got mamba");
  expect_problem(resume({"--sparse_arch", "full"}), "--sparse_arch: ");
  expect_problem(resume({"--double_width"}), "--double_width: ");
  expect_problem(resume({"--quick"}), "--quick: ");
  expect_problem(resume({"--save_dir", "x"}), "--save_dir: ");
  expect_problem(resume({"--step", "5"}), "is at step 12 already, got 5");
  expect_problem({"train", "--resume", run_ / "best.safetensors"}, "best.safetensors");

  GeneratorArgs args = fixed_size_args(2, 2, 4, 200, 20);
  args.seed = 5;
  create_dataset(folder_ / "other", args);
  expect_problem(resume({"--data_dir", "other"}), "seed is 5, expected 1");
  create_dataset(folder_ / "larger", fixed_size_args(2, 2, 5, 200, 20));
  expect_problem({"eval", "--checkpoint", last_, "--data_dir", "larger"}, "expected n_value 4");

  write_file(run_ / "metrics.csv", "step");
  expect_problem(resume({"--step", "20"}), "metrics.csv");
  EXPECT_TRUE(read_file(last_) == bytes_);
}

TEST_F(BadCheckpointTest, TheBestOfAnotherRun) {
  const std::vector<std::string> args = {"train", "--resume", run_, "--step", "15"};
  ASSERT_EQ(run(args).code, 0);
  const std::filesystem::path best = run_ / "best.safetensors";
  std::filesystem::copy_file(last_, best, std::filesystem::copy_options::overwrite_existing);
  expect_problem(args, "best.safetensors: expected the checkpoint of step ");
  std::filesystem::remove(best);
  expect_problem(args, "best.safetensors");
}

TEST_F(BadCheckpointTest, AFullDisk) {
  const Program::Conditions limits{.file_bytes = 200 * 1024};
  expect_problem(train_with({}), "last.safetensors: ", limits);
  expect_problem({"train", "--resume", run_, "--step", "20"}, "last.safetensors: ", limits);
  EXPECT_TRUE(read_file(last_) == bytes_);
  for (const std::string& name : names_in(run_)) EXPECT_FALSE(name.ends_with(".tmp")) << name;
  expect_problem({"create-dataset", "--data_dir", "new"}, "new/", limits);
  ASSERT_EQ(run({"train", "--resume", run_, "--step", "20"}).code, 0);
}

TEST_F(BadCheckpointTest, AFolderInUse) {
  Program first(folder_, {"train", "--resume", run_, "--step", "1000000"}, {});
  ASSERT_TRUE(first.wait_until([&] { return first.out().find("resuming") != std::string::npos; }));
  Program second(folder_ / "data",
                 {"train", "--resume", run_, "--step", "20", "--data_dir", folder_ / "data"}, {});
  EXPECT_EQ(second.wait(), 1);
  EXPECT_TRUE(contains(second.err(), "another program"));
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait(), 128 + SIGTERM);
}

}  // namespace
}  // namespace joint_recall
