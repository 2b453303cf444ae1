#include "train/metrics_log.hpp"

#include <fmt/format.h>

#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <sstream>

#include "train/error.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kCsvHeader = "step,split,loss,gate_loss,accuracy,lr\n";

int64_t size_or_zero(const std::filesystem::path& path) {
  std::error_code none;
  const auto size = std::filesystem::file_size(path, none);
  return none ? 0 : static_cast<int64_t>(size);
}

}  // namespace

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

MetricsLog::MetricsLog(const std::filesystem::path& folder, const RunState& state)
    : jsonl_(folder / kJsonlName, state.jsonl_bytes),
      csv_(folder / kCsvName, state.csv_bytes),
      timing_(folder / kTimingName, size_or_zero(folder / kTimingName)) {
  if (csv_.bytes() == 0) csv_.append(kCsvHeader);
}

void MetricsLog::add(const MetricsRecord& record) {
  Json json = {{"step", record.step},
               {"split", record.validation ? "valid" : "train"},
               {"loss", record.loss},
               {"accuracy", record.accuracy}};
  std::string csv = fmt::format("{},valid,{},,{},\n", record.step, record.loss, record.accuracy);
  if (!record.validation) {
    json["gate_loss"] = record.gate_loss;
    json["lr"] = record.lr;
    csv = fmt::format("{},train,{},{},{},{}\n", record.step, record.loss, record.gate_loss,
                      record.accuracy, record.lr);
  }
  jsonl_.append(json.dump() + "\n");
  csv_.append(csv);
}

void MetricsLog::add_timing(int64_t step, double seconds_per_step, double items_per_second) {
  const Json json = {{"step", step},
                     {"time", utc_now()},
                     {"ms_per_step", std::round(seconds_per_step * 1e6) / 1e3},
                     {"items_per_second", std::round(items_per_second * 10.0) / 10.0}};
  timing_.append(json.dump() + "\n");
}

void MetricsLog::sync(RunState& state) {
  jsonl_.sync();
  csv_.sync();
  state.jsonl_bytes = jsonl_.bytes();
  state.csv_bytes = csv_.bytes();
}

std::vector<MetricsRecord> read_metrics(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kJsonlName;
  std::istringstream lines(load_file(path));
  std::vector<MetricsRecord> records;
  std::string line;
  while (std::getline(lines, line)) {
    try {
      const Json json = Json::parse(line);
      records.push_back({.step = json.at("step").get<int64_t>(),
                         .validation = json.at("split") == "valid",
                         .loss = json.at("loss").get<double>(),
                         .gate_loss = json.value("gate_loss", 0.0),
                         .accuracy = json.at("accuracy").get<double>(),
                         .lr = json.value("lr", 0.0)});
    } catch (const Json::exception& error) {
      throw TrainError(
          fmt::format("{}, line {}: {}", path.string(), records.size() + 1, error.what()));
    }
  }
  return records;
}

}  // namespace joint_recall
