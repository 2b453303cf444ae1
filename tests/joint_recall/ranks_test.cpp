// Runs of several processes: who they are, what they share out, and how they end.
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "data/batch.hpp"
#include "ranks/rank_place.hpp"
#include "ranks/socket.hpp"
#include "train/checkpoint.hpp"
#include "train/error.hpp"
#include "train/metrics_log.hpp"
#include "train_program.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

const char* const kVariables[] = {
    "RANK",        "WORLD_SIZE",           "LOCAL_RANK",           "MASTER_ADDR",
    "MASTER_PORT", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"};

class RankPlaceTest : public ::testing::Test {
 protected:
  RankPlaceTest() { clear(); }
  ~RankPlaceTest() override { clear(); }
  static void clear() {
    for (const char* name : kVariables) ::unsetenv(name);
  }
  static std::string problem() {
    try {
      find_rank_place();
    } catch (const TrainError& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(RankPlaceTest, IsFoundAsTorchrunAndMpirunTellIt) {
  EXPECT_FALSE(find_rank_place());
  ::setenv("RANK", "5", 1);
  ::setenv("WORLD_SIZE", "8", 1);
  ::setenv("LOCAL_RANK", "1", 1);
  ::setenv("MASTER_ADDR", "host", 1);
  ::setenv("MASTER_PORT", "1234", 1);
  const auto place = find_rank_place();
  ASSERT_TRUE(place);
  EXPECT_EQ(place->rank, 5);
  EXPECT_EQ(place->size, 8);
  EXPECT_EQ(place->local_rank, 1);
  EXPECT_EQ(place->address, "host");
  EXPECT_EQ(place->port, 1234);
  clear();
  ::setenv("OMPI_COMM_WORLD_RANK", "2", 1);
  ::setenv("OMPI_COMM_WORLD_SIZE", "3", 1);
  EXPECT_EQ(find_rank_place()->rank, 2);
  EXPECT_EQ(find_rank_place()->local_rank, 2);
  EXPECT_EQ(find_rank_place()->address, "127.0.0.1");
}

TEST_F(RankPlaceTest, NamesWhatIsWrong) {
  ::setenv("RANK", "2", 1);
  EXPECT_EQ(problem(), "WORLD_SIZE: it isn't set, though other variables of a rank are");
  ::setenv("WORLD_SIZE", "2", 1);
  EXPECT_EQ(problem(), "RANK: expected a number from 0 to 1, got '2'");
  ::setenv("RANK", "1", 1);
  ::setenv("MASTER_PORT", "high", 1);
  EXPECT_EQ(problem(), "MASTER_PORT: expected a number from 1 to 65534, got 'high'");
}

class RanksTest : public ProgramTest {
 protected:
  RanksTest() { create_dataset(folder_ / "sizes", sizes()); }

  // Items of several lengths, so that ranks get unequal numbers of asked positions.
  static GeneratorArgs sizes() {
    GeneratorArgs args = fixed_size_args(2, 2, 4, 60, 6);
    args.max_n_context = args.max_n_key = 3;
    return args;
  }

  // A port that is free, and the one before it.
  static int free_port() {
    const Socket any = listen_on(0);
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    ::getsockname(any.get(), reinterpret_cast<sockaddr*>(&address), &size);
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(address);
    return ntohs(in6.sin6_port) - 1;
  }

  static std::vector<std::string> rank_args(const std::string& save_dir) {
    std::vector<std::string> args = train_args(save_dir);
    args[2] = "sizes";
    return args;
  }

  std::unique_ptr<Program> start_rank(int rank, int size, int port,
                                      const std::vector<std::string>& args) const {
    return std::make_unique<Program>(
        folder_, args,
        Program::Conditions{.file_bytes = {},
                            .environment = {{"RANK", std::to_string(rank)},
                                            {"WORLD_SIZE", std::to_string(size)},
                                            {"LOCAL_RANK", std::to_string(rank)},
                                            {"MASTER_ADDR", "127.0.0.1"},
                                            {"MASTER_PORT", std::to_string(port)}},
                            .output = "rank" + std::to_string(rank)});
  }

  std::vector<std::unique_ptr<Program>> start_ranks(int size,
                                                    const std::vector<std::string>& args) const {
    const int port = free_port();
    std::vector<std::unique_ptr<Program>> ranks;
    for (int rank = 0; rank < size; ++rank) ranks.push_back(start_rank(rank, size, port, args));
    return ranks;
  }
};

TEST_F(RanksTest, OneRankGivesThePlainRunsBits) {
  ASSERT_EQ(run(rank_args("plain")).code, 0);
  const auto ranks = start_ranks(1, rank_args("one"));
  ASSERT_EQ(ranks[0]->wait(), 0) << ranks[0]->err();
  expect_equal_runs(run_folder("plain"), run_folder("one"));
}

struct RanksCase {
  const char* name;
  int size;
  std::vector<std::string> more;
};
void PrintTo(const RanksCase& test, std::ostream* out) { *out << test.name; }

class RanksEqualTest : public RanksTest, public ::testing::WithParamInterface<RanksCase> {};

// The same sums in another order: losses agree to fp32 rounding, grown over some steps.
TEST_P(RanksEqualTest, SeveralTrainAsOne) {
  const std::vector<std::string> more = GetParam().more;
  ASSERT_EQ(run(rank_args("one") + more).code, 0);
  const auto ranks = start_ranks(GetParam().size, rank_args("several") + more);
  for (const auto& rank : ranks) ASSERT_EQ(rank->wait(), 0) << rank->err();
  EXPECT_TRUE(contains(ranks[0]->out(), "test accuracy"));
  EXPECT_EQ(ranks[1]->out(), "");
  const auto one = read_metrics(run_folder("one")), several = read_metrics(run_folder("several"));
  ASSERT_EQ(one.size(), several.size());
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].step, several[i].step);
    EXPECT_NEAR(one[i].loss, several[i].loss, 1e-3 * one[i].loss) << "step " << one[i].step;
    EXPECT_NEAR(one[i].gate_loss, several[i].gate_loss, 1e-3 * (one[i].gate_loss + 1e-3));
  }
}

INSTANTIATE_TEST_SUITE_P(, RanksEqualTest,
                         ::testing::Values(RanksCase{"Hax2", 2, {}},
                                           RanksCase{
                                               "Window4", 4, {"--sparse_arch", "sliding_window"}},
                                           RanksCase{"Accumulated2", 2, {"--grad_acc", "2"}},
                                           RanksCase{"Padded2", 2, {"--no-packing"}}),
                         [](const auto& test) { return test.param.name; });

TEST_F(RanksTest, ARunOfRanksGoesOnWithEqualBits) {
  for (const auto& rank : start_ranks(2, rank_args("whole"))) ASSERT_EQ(rank->wait(), 0);
  for (const auto& rank :
       start_ranks(2, rank_args("parts") + std::vector<std::string>{"--step", "7"})) {
    ASSERT_EQ(rank->wait(), 0);
  }
  const std::string folder = run_folder("parts").string();
  for (const auto& rank : start_ranks(2, {"train", "--resume", folder, "--step", "12"})) {
    ASSERT_EQ(rank->wait(), 0) << rank->err();
  }
  expect_equal_runs(run_folder("whole"), folder);
}

// Whichever dies.
TEST_F(RanksTest, ARankThatIsGoneEndsTheOthers) {
  for (const int victim : {0, 1, 2}) {
    const std::string save_dir = "victim" + std::to_string(victim);
    const auto ranks = start_ranks(
        3, rank_args(save_dir) +
               std::vector<std::string>{"--bsz", "6", "--step", "100000", "--valid_step", "5"});
    ASSERT_TRUE(ranks[0]->wait_until([&] {
      std::error_code none;
      return fs::exists(folder_ / save_dir, none) && !names_in(folder_ / save_dir).empty() &&
             fs::exists(run_folder(save_dir) / "best.safetensors", none);
    }));
    ranks[static_cast<size_t>(victim)]->signal(SIGKILL);
    const auto start = std::chrono::steady_clock::now();
    for (int rank = 0; rank < 3; ++rank) {
      if (rank == victim) continue;
      EXPECT_EQ(ranks[static_cast<size_t>(rank)]->wait(), 1);
      EXPECT_TRUE(contains(ranks[static_cast<size_t>(rank)]->err(),
                           "rank " + std::to_string(victim) + " ended before the run did"))
          << ranks[static_cast<size_t>(rank)]->err();
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
    EXPECT_GE(Checkpoint(run_folder(save_dir) / "last.safetensors").info().state.step, 5);
  }
}

// One that stands still holds its connections open; only its silence tells. Takes half a minute.
TEST_F(RanksTest, ARankThatStandsStillEndsTheOthers) {
  const auto ranks = start_ranks(
      2, rank_args("still") + std::vector<std::string>{"--step", "100000", "--valid_step", "5"});
  ASSERT_TRUE(ranks[0]->wait_until([&] {
    std::error_code none;
    return fs::exists(folder_ / "still", none) && !names_in(folder_ / "still").empty() &&
           fs::exists(run_folder("still") / "best.safetensors", none);
  }));
  ranks[1]->signal(SIGSTOP);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(ranks[0]->wait(), 1);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
  EXPECT_TRUE(contains(ranks[0]->err(), "rank 1 was silent for 30 s")) << ranks[0]->err();
  EXPECT_GE(Checkpoint(run_folder("still") / "last.safetensors").info().state.step, 5);
  ranks[1]->signal(SIGKILL);
}

TEST_F(RanksTest, AStopSignalToOneRankStopsAllAtTheSameStep) {
  const std::vector<std::string> args =
      rank_args("runs") + std::vector<std::string>{"--step", "100000"};
  const auto ranks = start_ranks(2, args);
  ASSERT_TRUE(ranks[0]->wait_until([&] {
    std::error_code none;
    return fs::exists(folder_ / "runs", none) && !names_in(folder_ / "runs").empty() &&
           fs::exists(run_folder("runs") / "best.safetensors", none);
  }));
  ranks[1]->signal(SIGTERM);
  for (const auto& rank : ranks) EXPECT_EQ(rank->wait(), 128 + SIGTERM) << rank->err();
  EXPECT_TRUE(contains(ranks[0]->out(), "everything is saved"));
}

TEST_F(RanksTest, RanksMustBeOfOneRun) {
  const int port = free_port();
  const auto first = start_rank(0, 2, port, rank_args("runs"));
  const auto second =
      start_rank(1, 2, port, rank_args("runs") + std::vector<std::string>{"--lr", "0.1"});
  EXPECT_EQ(first->wait(), 1);
  EXPECT_EQ(second->wait(), 1);
  EXPECT_TRUE(contains(first->err(), "rank 1 has another command line, or checkpoint than rank 0"))
      << first->err();
  const auto uneven = start_ranks(3, rank_args("uneven"));
  for (const auto& rank : uneven) EXPECT_EQ(rank->wait(), 1);
  EXPECT_TRUE(
      contains(uneven[0]->err(), "a batch of 8 items can't be shared out evenly among 3 ranks"))
      << uneven[0]->err();
  EXPECT_FALSE(fs::exists(folder_ / "uneven"));
}

TEST(BatchParts, MakeUpTheBatch) {
  class Folder : public DatasetTest {
   public:
    void TestBody() override {}
    using DatasetTest::folder_;
  } folder;
  GeneratorArgs args = fixed_size_args(2, 2, 4, 30, 2);
  args.max_n_key = 4;
  const Dataset dataset = create_dataset(folder.folder_ / "data", args).dataset;
  const BatchIterator whole(dataset.train, 12, Repeat::kForever);
  for (const int64_t step : {0, 3, 7}) {
    PackedBatch all, joined;
    whole.fill(step, all);
    double asked = 0.0;
    for (int64_t part = 0; part < 3; ++part) {
      const BatchIterator own(dataset.train, 12, Repeat::kForever, {.index = part, .count = 3});
      PackedBatch batch;
      own.fill(step, batch);
      const BatchShare share = own.share(step);
      EXPECT_EQ(share.inputs_before, static_cast<int64_t>(joined.inputs.size()));
      EXPECT_EQ(share.items_before, 4 * part);
      EXPECT_NEAR(share.asked,
                  static_cast<double>(batch.asked.positions.size()) /
                      static_cast<double>(all.asked.positions.size()),
                  1e-15);
      asked += share.asked;
      joined.inputs.insert(joined.inputs.end(), batch.inputs.begin(), batch.inputs.end());
    }
    EXPECT_EQ(joined.inputs, all.inputs);
    EXPECT_NEAR(asked, 1.0, 1e-12);
  }
}

}  // namespace
}  // namespace joint_recall
