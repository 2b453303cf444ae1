// Sweeps: their lists of cells, running them through any kind of end, and what is written about them.
#include <nlohmann/json.hpp>
#include <set>

#include "sweep/cell.hpp"
#include "sweep/cell_result.hpp"
#include "sweep/results_text.hpp"
#include "train/error.hpp"
#include "train/settings.hpp"
#include "train_program.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

// What `train` makes of a cell's flags.
TrainSettings settings_of(const Cell& cell) {
  TrainFlags flags;
  visit_fields([&](const char* name, const char*, Keep, auto access) {
    const auto found = cell.flags.find(name);
    if (found == cell.flags.end()) return;
    parse_field(name, found->second, access(flags.value));
    flags.given.insert(name);
  });
  return resolve_settings(flags, false);
}

TEST(SweepCells, TheBuiltInListsAreRunsOfTheirOwn) {
  size_t cells = 0;
  for (const CellList& list : {table3_cells(), beyond_cells()}) {
    std::set<std::string> names, places, settings;
    for (const Cell& cell : list.cells) {
      EXPECT_TRUE(names.insert(cell.name).second) << cell.name;
      EXPECT_TRUE(places.insert(cell.row + "|" + cell.column).second) << cell.name;
      EXPECT_TRUE(settings.insert(settings_to_json(settings_of(cell))).second) << cell.name;
      EXPECT_EQ(settings_of(cell).step, 400000);
    }
    cells += list.cells.size();
  }
  EXPECT_EQ(table3_cells().cells.size(), 19u);
  EXPECT_LE(cells, 29u);
}

TEST(SweepCells, Table3HasThePapersModels) {
  const CellList list = table3_cells();
  const auto find = [&](const char* name) -> const Cell& {
    for (const Cell& cell : list.cells) {
      if (cell.name == name) return cell;
    }
    throw std::out_of_range(name);
  };
  EXPECT_EQ(settings_of(find("mamba+base")).model.hidden_size, 64);
  EXPECT_EQ(settings_of(find("mamba+base2x")).model.hidden_size, 128);
  EXPECT_EQ(settings_of(find("mamba2+base2x")).model.head_dim, 32);
  EXPECT_EQ(settings_of(find("mamba2+hax")).model.sparse_arch.pattern_count(), 2);
  EXPECT_EQ(find("mamba2+hax").paper, 74.3);
  EXPECT_EQ(find("mamba+hax").paper, 38.0);
  EXPECT_EQ(find("samba").paper, 6.3);
}

// The page, the results it is made from and the lists of cells belong together.
TEST_F(ProgramTest, TheResultsPageIsUpToDate) {
  const fs::path trainer = JOINT_RECALL_FOLDER;
  std::string results;
  for (const CellList& list : {table3_cells(), beyond_cells()}) {
    const fs::path path = trainer / "results" / (list.name + ".json");
    results += (results.empty() ? "" : ",") + path.string();
    const SweepResults found = read_results(path);
    ASSERT_EQ(found.cells.size(), list.cells.size()) << path;
    for (size_t i = 0; i < list.cells.size(); ++i) {
      EXPECT_EQ(found.cells[i].cell.name, list.cells[i].name);
      EXPECT_EQ(found.cells[i].cell.row, list.cells[i].row);
      EXPECT_EQ(found.cells[i].cell.paper, list.cells[i].paper);
    }
  }
  const Result report =
      run({"report", "--results", results, "--template", (trainer / "results/template.md").string(),
           "--page", "page.md", "--charts", "."});
  ASSERT_EQ(report.code, 0) << report.err;
  EXPECT_TRUE(read_file(folder_ / "page.md") == read_file(trainer / "RESULTS.md"));
  for (const char* chart : {"table3.svg", "beyond.svg"}) {
    EXPECT_TRUE(read_file(folder_ / chart) == read_file(trainer / "results" / chart)) << chart;
  }
}

class SweepTest : public ProgramTest {
 protected:
  SweepTest() {
    write_file(folder_ / "cells.json", R"({"title": "Tiny", "cells": [
      {"name": "hax", "row": "+HAX", "column": "Mamba2", "paper": 74.3, "flags":
        {"base_arch": "mamba2", "sparse_arch": "sign_bin_lsh+key_selection"}},
      {"name": "base", "row": "Base", "column": "Mamba",
       "flags": {"base_arch": "mamba", "sparse_arch": "none", "packing": false}}]})");
  }

  static std::vector<std::string> sweep_args(const std::string& folder, const char* step = "24") {
    std::vector<std::string> args = {"sweep", "--cells",         "cells.json", "--data_dir",
                                     "data",  "--sweep_dir",     folder,       "--devices",
                                     "cpu",   "--cells_per_gpu", "2"};
    for (const char* set : {"bsz=8", "valid_step=6", "log_step=4", "num_threads=1"}) {
      args.insert(args.end(), {"--set", set});
    }
    return args + std::vector<std::string>{"--set", std::string("step=") + step};
  }

  SweepResults results(const std::string& folder) const {
    return read_results(folder_ / folder / kResultsName);
  }

  fs::path cell_run(const std::string& folder, const std::string& cell) const {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_ / folder / cell)) {
      if (entry.is_directory()) return entry.path();
    }
    return {};
  }

  void expect_equal_cells(const std::string& a, const std::string& b) const {
    for (const char* cell : {"hax", "base"}) {
      for (const char* name : {"best.safetensors", "last.safetensors", "metrics.jsonl"}) {
        EXPECT_TRUE(read_file(cell_run(a, cell) / name) == read_file(cell_run(b, cell) / name))
            << cell << ": " << name;
      }
    }
  }
};

TEST_F(SweepTest, RunsAllCellsAndTellsOfThem) {
  const Result result = run(sweep_args("s"));
  ASSERT_EQ(result.code, 0) << result.err << result.out;
  EXPECT_TRUE(contains(result.out, "2 of 2 cells done"));
  const SweepResults found = results("s");
  ASSERT_EQ(found.cells.size(), 2u);
  for (const CellResult& cell : found.cells) {
    EXPECT_EQ(cell.status, CellStatus::kDone) << cell.cell.name;
    EXPECT_EQ(cell.steps, 24);
    EXPECT_EQ(cell.sessions, 1);
    EXPECT_EQ(cell.cells_per_gpu, 2);
    EXPECT_EQ(cell.device, "CPU");
    EXPECT_GT(cell.wall_seconds, 0.0);
    const auto summary =
        nlohmann::json::parse(read_file(cell_run("s", cell.cell.name) / "summary.json"));
    EXPECT_EQ(cell.test_accuracy, summary["test_accuracy"].get<double>());
    EXPECT_EQ(cell.valid_accuracy, summary["valid_accuracy"].get<double>());
  }
  EXPECT_TRUE(contains(read_file(folder_ / "s/table.md"), "(74.3)"));
  EXPECT_TRUE(contains(read_file(folder_ / "s/table.md"), "--no-packing"));
  EXPECT_TRUE(contains(read_file(folder_ / "s/chart.svg"), "</svg>"));

  const std::string before = read_file(folder_ / "s/hax/log.txt");
  ASSERT_EQ(run(sweep_args("s")).code, 0);
  EXPECT_EQ(read_file(folder_ / "s/hax/log.txt"), before);  // done: not run again
  ASSERT_EQ(run(sweep_args("s", "30")).code, 0);            // more steps: it goes on
  EXPECT_EQ(results("s").cells[0].steps, 30);
  EXPECT_EQ(results("s").cells[0].sessions, 2);
}

TEST_F(SweepTest, StopsAtTheTimeLimitAndGoesOnWithEqualBits) {
  ASSERT_EQ(run(sweep_args("whole", "400")).code, 0);
  const Result stopped =
      run(sweep_args("parts", "400") + std::vector<std::string>{"--time_limit", "1"});
  EXPECT_EQ(stopped.code, 3) << stopped.err << stopped.out;
  EXPECT_TRUE(contains(stopped.out, "the time limit is reached"));
  EXPECT_EQ(results("parts").cells[0].status, CellStatus::kStopped);
  ASSERT_EQ(run(sweep_args("parts", "400")).code, 0);
  expect_equal_cells("whole", "parts");
  EXPECT_GE(results("parts").cells[0].sessions, 2);
}

TEST_F(SweepTest, KilledItGoesOnWithEqualBits) {
  ASSERT_EQ(run(sweep_args("whole", "150")).code, 0);
  {
    Program program(folder_, sweep_args("parts", "150"), {});
    ASSERT_TRUE(program.wait_until([&] {
      std::error_code none;
      const fs::path cell = folder_ / "parts/hax";
      return fs::exists(cell, none) && !cell_run("parts", "hax").empty() &&
             fs::exists(cell_run("parts", "hax") / "best.safetensors", none);
    }));
    program.signal(SIGKILL);
    EXPECT_EQ(program.wait(), -SIGKILL);
  }
  const Result again = run(sweep_args("parts", "150"));
  ASSERT_EQ(again.code, 0) << again.err << again.out;
  expect_equal_cells("whole", "parts");
}

// Weights as large as this learning rate makes them overflow.
TEST_F(SweepTest, ACellThatFailsLeavesTheOthersAlone) {
  write_file(folder_ / "cells.json", R"({"cells": [
      {"name": "broken", "flags": {"base_arch": "mamba2", "lr": 900000, "warmup_step": 0}},
      {"name": "wide", "flags": {"base_arch": "mamba2", "vocab": 3}}]})");
  EXPECT_TRUE(contains(run(sweep_args("s")).err, "'vocab' is no option of train"));
  write_file(folder_ / "cells.json", R"({"cells": [
      {"name": "broken", "flags": {"base_arch": "mamba2", "lr": 900000, "warmup_step": 0}},
      {"name": "fine", "flags": {"base_arch": "mamba", "sparse_arch": "none"}}]})");
  const Result result = run(sweep_args("s"));
  EXPECT_EQ(result.code, 1) << result.out;
  const SweepResults found = results("s");
  EXPECT_EQ(found.cells[0].status, CellStatus::kFailed);
  EXPECT_TRUE(contains(found.cells[0].message, "the loss became"));
  EXPECT_EQ(found.cells[1].status, CellStatus::kDone);
  EXPECT_TRUE(contains(results_details(found), "the loss became"));
}

TEST_F(SweepTest, NamesWhatIsWrong) {
  const struct {
    std::vector<std::string> more;
    const char* problem;
  } cases[] = {
      {{"--cells", "table4"}, "expected table3, beyond or a JSON file, got 'table4'"},
      {{"--only", "hax,samba"}, "--only: expected some of hax, base, got 'samba'"},
      {{"--set", "speed=3"}, "'speed' is no option of train"},
      {{"--set", "device=cpu"}, "'device' is for the sweep itself to set"},
      {{"--set", "step"}, "--set: expected an option of train and its value"},
      {{"--cells_per_gpu", "0"}, "--cells_per_gpu: expected 1 or more, got 0"},
      {{"--time_limit", "-1"}, "--time_limit"},
      {{"--devices", "cpu,gpu"}, "--device: expected cpu, cuda or cuda:N, got 'gpu'"},
  };
  for (const auto& [more, problem] : cases) {
    const Result result = run(sweep_args("s") + more);
    EXPECT_EQ(result.code, 1);
    EXPECT_TRUE(contains(result.err, problem)) << result.err;
  }
  EXPECT_FALSE(fs::exists(folder_ / "s"));
}

TEST_F(SweepTest, APageIsFilledFromResults) {
  SweepResults made{.list = "cells", .title = "Tiny", .cells = {}};
  const Cell cell{
      .name = "hax", .row = "+HAX", .column = "Mamba2", .flags = {{"step", "9"}}, .paper = 74.3};
  made.cells.resize(2);
  made.cells[0].cell = cell;
  made.cells[0].status = CellStatus::kDone;
  made.cells[0].test_accuracy = 0.785;
  made.cells[1].cell = {
      .name = "base", .row = "Base", .column = "Mamba2", .flags = {{"step", "9"}}, .paper = 36.6};
  write_results(folder_ / "r.json", made);
  write_file(folder_ / "template.md", "# Page\n{{cells.table}}\n{{cells.details}}\nby hand\n");
  const Result report = run({"report", "--results", "r.json", "--template", "template.md", "--page",
                             "page.md", "--charts", "."});
  ASSERT_EQ(report.code, 0) << report.err;
  const std::string page = read_file(folder_ / "page.md");
  EXPECT_TRUE(contains(page, "| +HAX | 78.5 (74.3) |\n| Base | not run (36.6) |\n"));
  EXPECT_TRUE(contains(page, "+4.2"));
  EXPECT_TRUE(page.ends_with("by hand\n"));
  EXPECT_TRUE(contains(read_file(folder_ / "cells.svg"), "not run"));
  write_file(folder_ / "template.md", "{{other.table}}");
  EXPECT_TRUE(contains(
      run({"report", "--results", "r.json", "--template", "template.md", "--page", "page.md"}).err,
      "{{other.table}}"));
}

}  // namespace
}  // namespace joint_recall
