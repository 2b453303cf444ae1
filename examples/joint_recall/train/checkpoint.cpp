#include "train/checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/checksum.hpp"
#include "data/dataset_error.hpp"
#include "train/error.hpp"
#include "train/run_files.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr const char* kFormat = "joint_recall checkpoint 1";
constexpr std::array<std::pair<ParameterPart, const char*>, 3> kParts = {
    {{ParameterPart::kValue, ""},
     {ParameterPart::kFirstMoment, "optimizer.exp_avg."},
     {ParameterPart::kSecondMoment, "optimizer.exp_avg_sq."}}};

std::string checksum_text(std::string_view data) {
  return fmt::format("{:016x}", xxh64(std::as_bytes(std::span(data.data(), data.size()))));
}

Json to_json(const RunState& state) {
  return {{"step", state.step},
          {"validated_step", state.validated_step},
          {"best_step", state.best_step},
          {"best_accuracy", state.best_accuracy},
          {"sum_steps", state.sums.steps},
          {"sum_loss", state.sums.loss},
          {"sum_gate_loss", state.sums.gate_loss},
          {"sum_accuracy", state.sums.accuracy},
          {"jsonl_bytes", state.jsonl_bytes},
          {"csv_bytes", state.csv_bytes}};
}

RunState state_from_json(const Json& json) {
  const auto count = [&](const char* key) {
    const Json& value = json.at(key);
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) {
      throw TrainError(fmt::format("'{}' is not a count", key));
    }
    return value.get<int64_t>();
  };
  const auto number = [&](const char* key) { return json.at(key).get<double>(); };
  RunState state{.step = count("step"),
                 .validated_step = count("validated_step"),
                 .best_step = count("best_step"),
                 .best_accuracy = number("best_accuracy"),
                 .sums = {.steps = count("sum_steps"),
                          .loss = number("sum_loss"),
                          .gate_loss = number("sum_gate_loss"),
                          .accuracy = number("sum_accuracy")},
                 .jsonl_bytes = count("jsonl_bytes"),
                 .csv_bytes = count("csv_bytes")};
  if (state.validated_step > state.step || state.best_step > state.validated_step) {
    throw TrainError("its steps contradict each other");
  }
  return state;
}

Json to_json(const DatasetIdentity& dataset) {
  Json json = Json::object();
  for (const ArgField& field : kArgFields) json[field.name] = dataset.args.*field.member;
  json["checksum"] = fmt::format("{:016x}", dataset.checksum);
  return json;
}

DatasetIdentity dataset_from_json(const Json& json) {
  DatasetIdentity dataset;
  for (const ArgField& field : kArgFields) {
    dataset.args.*field.member = json.at(field.name).get<int64_t>();
  }
  check_args(dataset.args);
  const auto text = json.at("checksum").get<std::string>();
  if (text.size() != 16 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw TrainError("'checksum' is not 16 hexadecimal digits");
  }
  dataset.checksum = std::stoull(text, nullptr, 16);
  return dataset;
}

std::vector<std::pair<ParameterPart, std::string>> tensor_names(const Parameter& parameter) {
  std::vector<std::pair<ParameterPart, std::string>> names;
  for (const auto& [part, prefix] : kParts) {
    if (part == ParameterPart::kValue || parameter.trainable) {
      names.emplace_back(part, prefix + parameter.name);
    }
  }
  return names;
}

}  // namespace

DatasetIdentity identify(const Dataset& dataset) {
  std::array<uint64_t, 3> checksums{};
  for (size_t i = 0; i < checksums.size(); ++i) {
    checksums[i] = xxh64(dataset.split(kSplitNames[i]).token_data());
  }
  return {dataset.args, xxh64(std::as_bytes(std::span(checksums)))};
}

std::string difference(const DatasetIdentity& found, const DatasetIdentity& expected) {
  std::vector<std::string> differences;
  for (const ArgField& field : kArgFields) {
    if (found.args.*field.member != expected.args.*field.member) {
      differences.push_back(fmt::format("{} is {}, expected {}", field.name,
                                        found.args.*field.member, expected.args.*field.member));
    }
  }
  if (differences.empty()) return "the same arguments, but other tokens";
  return fmt::format("{}", fmt::join(differences, "; "));
}

void save_checkpoint(const std::filesystem::path& path, const Model& model,
                     const CheckpointInfo& info) {
  std::vector<std::vector<float>> values;
  std::vector<SafetensorsTensor> tensors;
  std::string data;
  for (const Parameter& parameter : model.parameters()) {
    for (const auto& [part, name] : tensor_names(parameter)) {
      values.push_back(model.get(parameter, part));
      const std::string_view bytes(reinterpret_cast<const char*>(values.back().data()),
                                   values.back().size() * sizeof(float));
      tensors.push_back({name, "F32", parameter.shape, bytes});
      data += bytes;
    }
  }
  const std::map<std::string, std::string> metadata = {
      {"format", kFormat},
      {"config", joint_recall::to_json(info.settings.model)},
      {"settings", settings_to_json(info.settings)},
      {"dataset", to_json(info.dataset).dump()},
      {"state", to_json(info.state).dump()},
      {"checksum", checksum_text(data)}};
  replace_file(path, format_safetensors(metadata, tensors));
}

Checkpoint::Checkpoint(const std::filesystem::path& path) : path_(path.string()) {
  read_safetensors(path, file_);
  const auto format = file_.metadata.find("format");
  if (format == file_.metadata.end() || format->second != kFormat) {
    throw TrainError(fmt::format(
        "{}: not a checkpoint of this trainer: expected the metadata 'format' to be '{}', {}",
        path_, kFormat,
        format == file_.metadata.end() ? "there is none"
                                       : fmt::format("got '{}'", format->second)));
  }
  const auto origin = [&](const char* key) { return fmt::format("{}, metadata '{}'", path_, key); };
  const ModelConfig model = config_from_json(metadata("config"), origin("config"));
  info_.settings = settings_from_json(metadata("settings"), model, origin("settings"));
  const char* key = "dataset";
  try {
    info_.dataset = dataset_from_json(Json::parse(metadata(key)));
    key = "state";
    info_.state = state_from_json(Json::parse(metadata(key)));
  } catch (const Json::exception& error) {
    throw TrainError(fmt::format("{}: {}", origin(key), error.what()));
  } catch (const TrainError& error) {
    throw TrainError(fmt::format("{}: {}", origin(key), error.what()));
  } catch (const DatasetError& error) {
    throw TrainError(fmt::format("{}: {}", origin(key), error.what()));
  }
}

const std::string& Checkpoint::metadata(const char* key) const {
  const auto found = file_.metadata.find(key);
  if (found == file_.metadata.end()) {
    throw TrainError(fmt::format("{}: there is no metadata '{}'", path_, key));
  }
  return found->second;
}

void Checkpoint::restore(Model& model) const {
  std::vector<std::pair<std::pair<const Parameter*, ParameterPart>, std::vector<float>>> arrays;
  std::set<std::string> wanted;
  std::string data;
  for (const Parameter& parameter : model.parameters()) {
    for (const auto& [part, name] : tensor_names(parameter)) {
      const auto found = file_.tensors.find(name);
      if (found == file_.tensors.end()) {
        throw TrainError(fmt::format("{}: there is no tensor '{}'", path_, name));
      }
      const SafetensorsTensor& tensor = found->second;
      if (tensor.dtype != "F32" || tensor.shape != parameter.shape) {
        throw TrainError(fmt::format(
            "{}: tensor '{}': expected F32 of shape ({}), got {} of shape ({})", path_, name,
            fmt::join(parameter.shape, ", "), tensor.dtype, fmt::join(tensor.shape, ", ")));
      }
      std::vector<float> values(tensor.data.size() / sizeof(float));
      if (!values.empty()) std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
      arrays.push_back({{&parameter, part}, std::move(values)});
      wanted.insert(name);
      data += tensor.data;
    }
  }
  for (const auto& [name, tensor] : file_.tensors) {
    if (!wanted.contains(name)) {
      throw TrainError(fmt::format("{}: tensor '{}' has no place in this model", path_, name));
    }
  }
  if (checksum_text(data) != metadata("checksum")) {
    throw TrainError(fmt::format("{}: damaged: the tensors' checksum is {}, expected {}", path_,
                                 checksum_text(data), metadata("checksum")));
  }
  // Only now, so that a file that doesn't fit leaves the model as it was.
  for (const auto& [target, values] : arrays) model.set(*target.first, target.second, values);
}

}  // namespace joint_recall
