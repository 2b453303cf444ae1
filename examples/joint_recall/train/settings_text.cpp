// Settings from text and to text: the values of flags, and the JSON a checkpoint carries.
#include <fmt/format.h>

#include <charconv>
#include <nlohmann/json.hpp>

#include "train/error.hpp"
#include "train/settings.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
void parse_number(const char* name, const std::string& text, const char* expected, T& value) {
  const char* const end = text.data() + text.size();
  T parsed{};
  const auto [stop, error] = std::from_chars(text.data(), end, parsed);
  if (error != std::errc() || stop != end) {
    throw TrainError(fmt::format("--{}: expected {}, got '{}'", name, expected, text));
  }
  value = parsed;
}

}  // namespace

void parse_field(const char*, const std::string& text, BaseArch& value) {
  value = parse_base_arch(text);
}
void parse_field(const char*, const std::string& text, SparseArch& value) {
  value = parse_sparse_arch(text);
}
void parse_field(const char*, const std::string& text, HashStatistics& value) {
  value = parse_hash_statistics(text);
}
void parse_field(const char*, const std::string& text, HashRedraw& value) {
  value = parse_hash_redraw(text);
}
void parse_field(const char*, const std::string& text, KeyScoreNorm& value) {
  value = parse_key_score_norm(text);
}
void parse_field(const char*, const std::string& text, Precision& value) {
  value = parse_precision(text);
}
void parse_field(const char* name, const std::string& text, int64_t& value) {
  parse_number(name, text, "a whole number", value);
}
void parse_field(const char* name, const std::string& text, uint64_t& value) {
  parse_number(name, text, "a whole number from 0 to 2^64 - 1", value);
}
void parse_field(const char* name, const std::string& text, double& value) {
  parse_number(name, text, "a number", value);
}
void parse_field(const char* name, const std::string& text, bool& value) {
  if (text != "true" && text != "false") {
    throw TrainError(fmt::format("--{}: expected true or false, got '{}'", name, text));
  }
  value = text == "true";
}
void parse_field(const char* name, const std::string& text, std::string& value) {
  if (text.empty()) throw TrainError(fmt::format("--{}: expected a name, got ''", name));
  value = text;
}

std::string field_text(double value) { return fmt::format("{}", value); }
std::string field_text(bool value) { return value ? "true" : "false"; }
std::string field_text(const std::string& value) { return value; }

std::string settings_to_json(const TrainSettings& settings) {
  Json json = Json::object();
  visit_fields([&](const char* name, const char*, Keep keep, auto access) {
    if (keep == Keep::kLocal) return;
    const auto& value = access(settings);
    using T = std::decay_t<decltype(value)>;
    if constexpr (std::is_arithmetic_v<T>) {
      json[name] = value;
    } else {
      json[name] = field_text(value);
    }
  });
  return json.dump(2);
}

TrainSettings settings_from_json(const std::string& text, const ModelConfig& model,
                                 const std::string& origin) {
  const auto fail = [&](const std::string& problem) {
    throw TrainError(fmt::format("{}: {}", origin, problem));
  };
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::parse_error& error) {
    fail(fmt::format("expected JSON, got a parse error at byte {}: {}", error.byte, error.what()));
  }
  if (!json.is_object()) fail("expected a JSON object");
  TrainSettings settings;
  settings.model = model;
  size_t known = 0;
  visit_fields([&](const char* name, const char*, Keep keep, auto access) {
    if (keep == Keep::kLocal) return;
    if (!json.contains(name)) fail(fmt::format("there is no field '{}'", name));
    ++known;
    const Json& value = json[name];
    std::decay_t<decltype(access(settings))> parsed{};
    try {
      parse_field(name, value.is_string() ? value.get<std::string>() : value.dump(), parsed);
    } catch (const std::exception& error) {
      fail(fmt::format("field '{}': {}", name, error.what()));
    }
    access(settings) = parsed;
  });
  if (known != json.size()) fail("there are unknown fields");
  if (!(settings.model == model)) fail("the settings disagree with the model configuration");
  check_settings(settings);
  return settings;
}

}  // namespace joint_recall
