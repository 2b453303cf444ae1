#include "sweep/cell_result.hpp"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "train/error.hpp"
#include "train/run_files.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<std::pair<CellStatus, const char*>, 5> kStatusNames = {
    {{CellStatus::kNotRun, "not run"},
     {CellStatus::kRunning, "running"},
     {CellStatus::kStopped, "stopped"},
     {CellStatus::kFailed, "failed"},
     {CellStatus::kDone, "done"}}};

Json result_to_json(const CellResult& result) {
  Json json = {
      {"name", result.cell.name}, {"row", result.cell.row}, {"column", result.cell.column}};
  if (result.cell.paper) json["paper"] = *result.cell.paper;
  json["flags"] = result.cell.flags;
  json["status"] = to_string(result.status);
  if (result.status == CellStatus::kNotRun) return json;
  if (!result.message.empty()) json["message"] = result.message;
  json["steps"] = result.steps;
  json["best_step"] = result.best_step;
  json["valid_accuracy"] = result.valid_accuracy;
  if (result.status == CellStatus::kDone) json["test_accuracy"] = result.test_accuracy;
  json["ms_per_step"] = result.ms_per_step;
  json["wall_seconds"] = result.wall_seconds;
  json["sessions"] = result.sessions;
  json["cells_per_gpu"] = result.cells_per_gpu;
  json["device"] = result.device;
  json["time"] = result.time;
  return json;
}

CellStatus parse_status(const std::string& text) {
  for (const auto& [status, name] : kStatusNames) {
    if (text == name) return status;
  }
  throw TrainError(fmt::format("unknown status '{}'", text));
}

CellResult result_from_json(const Json& json) {
  CellResult result;
  result.cell = {.name = json.at("name").get<std::string>(),
                 .row = json.at("row").get<std::string>(),
                 .column = json.at("column").get<std::string>(),
                 .flags = json.at("flags").get<CellFlags>(),
                 .paper = {}};
  if (json.contains("paper")) result.cell.paper = json["paper"].get<double>();
  result.status = parse_status(json.at("status").get<std::string>());
  result.message = json.value("message", "");
  result.steps = json.value("steps", int64_t{0});
  result.best_step = json.value("best_step", int64_t{0});
  result.valid_accuracy = json.value("valid_accuracy", 0.0);
  result.test_accuracy = json.value("test_accuracy", 0.0);
  result.ms_per_step = json.value("ms_per_step", 0.0);
  result.wall_seconds = json.value("wall_seconds", 0.0);
  result.sessions = json.value("sessions", int64_t{0});
  result.cells_per_gpu = json.value("cells_per_gpu", int64_t{1});
  result.device = json.value("device", "");
  result.time = json.value("time", "");
  return result;
}

template <class Read>
auto read_json(const std::filesystem::path& path, Read&& read) {
  try {
    return read(Json::parse(load_file(path)));
  } catch (const Json::exception& error) {
    throw TrainError(fmt::format("{}: {}", path.string(), error.what()));
  } catch (const TrainError& error) {
    throw TrainError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

}  // namespace

const char* to_string(CellStatus status) {
  return kStatusNames[static_cast<size_t>(status)].second;
}

CellResult read_result(const std::filesystem::path& cell_folder, const Cell& cell) {
  const std::filesystem::path path = cell_folder / kResultName;
  std::error_code none;
  CellResult result;
  if (std::filesystem::exists(path, none)) {
    result = read_json(path, [](const Json& json) { return result_from_json(json); });
  }
  // Other flags than it was run with: not what is asked for now, though a run may go on with more steps.
  if (result.cell.flags != cell.flags && result.status == CellStatus::kDone) {
    result.status = CellStatus::kStopped;
  }
  result.cell = cell;
  return result;
}

void write_result(const std::filesystem::path& cell_folder, const CellResult& result) {
  replace_file(cell_folder / kResultName, result_to_json(result).dump(2) + "\n");
}

SweepResults read_results(const std::filesystem::path& path) {
  return read_json(path, [](const Json& json) {
    SweepResults results{.list = json.at("list").get<std::string>(),
                         .title = json.at("title").get<std::string>(),
                         .cells = {}};
    for (const Json& cell : json.at("cells")) results.cells.push_back(result_from_json(cell));
    return results;
  });
}

void write_results(const std::filesystem::path& path, const SweepResults& results) {
  Json json = {{"list", results.list}, {"title", results.title}, {"cells", Json::array()}};
  for (const CellResult& result : results.cells) json["cells"].push_back(result_to_json(result));
  replace_file(path, json.dump(2) + "\n");
}

}  // namespace joint_recall
