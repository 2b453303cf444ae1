// Configurations as JSON text.
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "model/config.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::json;

// Takes fields out of an object and knows which were never taken.
class FieldReader {
 public:
  FieldReader(const Json& object, std::string origin, std::string prefix = "")
      : object_(object), origin_(std::move(origin)), prefix_(std::move(prefix)) {
    if (!object_.is_object()) {
      throw ModelError(fmt::format("{}: expected an object{}{}, got {}", origin_,
                                   prefix_.empty() ? "" : " in field ", prefix_, object_.dump()));
    }
  }

  [[noreturn]] void fail(const std::string& field, const std::string& expected) const {
    throw ModelError(fmt::format("{}: field '{}{}': expected {}, got {}", origin_, prefix_, field,
                                 expected, object_.at(field).dump()));
  }

  // Null where the field is absent.
  const Json* find(const std::string& field) {
    known_.insert(field);
    const auto found = object_.find(field);
    return found == object_.end() ? nullptr : &*found;
  }

  void read(const std::string& field, int64_t& value) {
    const Json* json = find(field);
    if (json == nullptr) return;
    if (!json->is_number_integer()) fail(field, "an integer");
    value = json->get<int64_t>();
  }
  void read(const std::string& field, double& value) {
    const Json* json = find(field);
    if (json == nullptr) return;
    if (!json->is_number()) fail(field, "a number");
    value = json->get<double>();
  }
  void read(const std::string& field, bool& value) {
    const Json* json = find(field);
    if (json == nullptr) return;
    if (!json->is_boolean()) fail(field, "true or false");
    value = json->get<bool>();
  }
  template <class Parse>
  void read_name(const std::string& field, Parse parse) {
    const Json* json = find(field);
    if (json == nullptr) return;
    if (!json->is_string()) fail(field, "a string");
    try {
      parse(json->get<std::string>());
    } catch (const ModelError& error) {
      throw ModelError(fmt::format("{}: field '{}{}': {}", origin_, prefix_, field, error.what()));
    }
  }
  // The field may be absent or hold one of these values; nothing else is supported.
  void expect(const std::string& field, std::initializer_list<Json> values) {
    const Json* json = find(field);
    if (json == nullptr) return;
    std::string names;
    for (const Json& value : values) {
      if (*json == value) return;
      names += (names.empty() ? "" : " or ") + value.dump();
    }
    fail(field, names);
  }
  // Says something about other programs only.
  void skip(std::initializer_list<const char*> fields) {
    known_.insert(fields.begin(), fields.end());
  }

  void reject_unknown() const {
    for (const auto& [field, value] : object_.items()) {
      if (known_.count(field) == 0) {
        throw ModelError(fmt::format("{}: field '{}{}' with value {} is unknown", origin_, prefix_,
                                     field, value.dump()));
      }
    }
  }

  const std::string& origin() const { return origin_; }

 private:
  const Json& object_;
  std::string origin_, prefix_;
  std::set<std::string> known_;
};

void read_attn(FieldReader& fields, AttnConfig& attn) {
  const Json* object = fields.find("attn");
  if (object == nullptr) return;
  FieldReader inner(*object, fields.origin(), "attn.");
  if (const Json* layers = inner.find("layers")) {
    if (!layers->is_array()) inner.fail("layers", "a list of integers");
    attn.layers.clear();
    for (const Json& layer : *layers) {
      if (!layer.is_number_integer()) inner.fail("layers", "a list of integers");
      attn.layers.push_back(layer.get<int64_t>());
    }
  }
  inner.read("num_heads", attn.num_heads);
  inner.read("num_kv_heads", attn.num_kv_heads);
  inner.read("window_size", attn.window_size);
  inner.read("rope_theta", attn.rope_theta);
  inner.expect("qkv_bias", {false});
  inner.reject_unknown();
}

void read_time_step_rank(FieldReader& fields, ModelConfig& config) {
  const Json* rank = fields.find("time_step_rank");
  if (rank != nullptr && *rank == "auto") {
    config.time_step_rank = (config.hidden_size + 15) / 16;
  } else {
    fields.read("time_step_rank", config.time_step_rank);
  }
}

// Overwrites what the object names.
void read_fields(const Json& object, const std::string& origin, ModelConfig& config) {
  FieldReader fields(object, origin);
  fields.expect("model_type", {to_string(config.base_arch)});
  fields.read("vocab_size", config.vocab_size);
  fields.read("hidden_size", config.hidden_size);
  fields.read("expand", config.expand);
  fields.read("state_size", config.state_size);
  fields.read("conv_kernel", config.conv_kernel);
  fields.read("use_conv_bias", config.use_conv_bias);
  fields.read("num_hidden_layers", config.num_hidden_layers);
  fields.read("initializer_range", config.initializer_range);
  fields.read("rescale_prenorm_residual", config.rescale_prenorm_residual);
  fields.read("time_step_min", config.time_step_min);
  fields.read("time_step_max", config.time_step_max);
  fields.read("time_step_floor", config.time_step_floor);
  fields.read(config.base_arch == BaseArch::kSamba ? "norm_eps" : "layer_norm_epsilon",
              config.layer_norm_epsilon);
  read_time_step_rank(fields, config);
  if (config.base_arch == BaseArch::kMamba2) {
    fields.read("num_heads", config.num_heads);
    fields.read("head_dim", config.head_dim);
    fields.read("n_groups", config.n_groups);
    fields.expect("rms_norm", {true});
    fields.skip({"chunk_size"});  // libhax chooses its own
  } else {
    fields.read("time_step_scale", config.time_step_scale);
    fields.expect("time_step_init_scheme", {"random"});
  }
  if (config.base_arch == BaseArch::kSamba) {
    read_attn(fields, config.attn);
    fields.read("hidden_ratio", config.hidden_ratio);
    fields.skip({"fuse_swiglu", "max_position_embeddings"});
  }

  fields.read_name("sparse_arch",
                   [&](const auto& text) { config.sparse_arch = parse_sparse_arch(text); });
  fields.read("sparse_keys", config.sparse_keys);
  fields.read("num_hash", config.num_hash);
  fields.read("data_max_length", config.data_max_length);
  fields.read_name("statistics",
                   [&](const auto& text) { config.statistics = parse_hash_statistics(text); });
  fields.read_name("hash_redraw",
                   [&](const auto& text) { config.hash_redraw = parse_hash_redraw(text); });
  fields.read_name("key_score_norm",
                   [&](const auto& text) { config.key_score_norm = parse_key_score_norm(text); });
  fields.read_name("precision",
                   [&](const auto& text) { config.precision = parse_precision(text); });

  fields.expect("use_bias", {false});
  fields.expect("hidden_act", {"silu", "swish"});
  fields.expect("intermediate_size", {config.intermediate_size()});
  // The head is the embedding's transpose whatever tie_word_embeddings says, and the residual
  // stream is fp32, as in the official trainer's fp32 runs.
  fields.skip({"bos_token_id", "eos_token_id", "pad_token_id", "fuse_cross_entropy", "fuse_norm",
               "residual_in_fp32", "tie_word_embeddings", "transformers_version", "use_cache"});
  fields.reject_unknown();
  try {
    check_config(config);
  } catch (const ModelError& error) {
    throw ModelError(fmt::format("{}: {}", origin, error.what()));
  }
}

Json parse_json(std::string_view text, const std::string& origin) {
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw ModelError(fmt::format("{}: expected JSON, got a parse error at byte {}: {}", origin,
                                 error.byte, error.what()));
  }
}

}  // namespace

ModelConfig load_config(const std::string& config_dir, BaseArch base, bool double_width) {
  ModelConfig config = default_config(base, double_width);
  const std::string path =
      fmt::format("{}/{}{}.json", config_dir, to_string(base), double_width ? "_double_size" : "");
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    throw ModelError(fmt::format("config_dir: expected a readable file {}", path));
  }
  read_fields(parse_json(text.str(), path), path, config);
  return config;
}

ModelConfig config_from_json(std::string_view text, const std::string& origin) {
  const Json json = parse_json(text, origin);
  const auto type = json.is_object() ? json.find("model_type") : json.end();
  if (type == json.end() || !type->is_string()) {
    throw ModelError(fmt::format("{}: expected an object with a field 'model_type'", origin));
  }
  ModelConfig config;
  try {
    config = default_config(parse_base_arch(type->get<std::string>()), false);
  } catch (const ModelError& error) {
    throw ModelError(fmt::format("{}: field 'model_type': {}", origin, error.what()));
  }
  read_fields(json, origin, config);
  return config;
}

std::string to_json(const ModelConfig& config) {
  Json json = {{"model_type", to_string(config.base_arch)},
               {"vocab_size", config.vocab_size},
               {"hidden_size", config.hidden_size},
               {"expand", config.expand},
               {"state_size", config.state_size},
               {"conv_kernel", config.conv_kernel},
               {"use_conv_bias", config.use_conv_bias},
               {"num_hidden_layers", config.num_hidden_layers},
               {"initializer_range", config.initializer_range},
               {"rescale_prenorm_residual", config.rescale_prenorm_residual},
               {"time_step_rank", config.time_step_rank},
               {"time_step_min", config.time_step_min},
               {"time_step_max", config.time_step_max},
               {"time_step_floor", config.time_step_floor},
               {"sparse_arch", to_string(config.sparse_arch)},
               {"sparse_keys", config.sparse_keys},
               {"num_hash", config.num_hash},
               {"data_max_length", config.data_max_length},
               {"statistics", to_string(config.statistics)},
               {"hash_redraw", to_string(config.hash_redraw)},
               {"key_score_norm", to_string(config.key_score_norm)},
               {"precision", to_string(config.precision)}};
  json[config.base_arch == BaseArch::kSamba ? "norm_eps" : "layer_norm_epsilon"] =
      config.layer_norm_epsilon;
  if (config.base_arch == BaseArch::kMamba2) {
    json["num_heads"] = config.num_heads;
    json["head_dim"] = config.head_dim;
    json["n_groups"] = config.n_groups;
  } else {
    json["time_step_scale"] = config.time_step_scale;
  }
  if (config.base_arch == BaseArch::kSamba) {
    json["hidden_ratio"] = config.hidden_ratio;
    json["attn"] = {{"layers", config.attn.layers},
                    {"num_heads", config.attn.num_heads},
                    {"num_kv_heads", config.attn.num_kv_heads},
                    {"window_size", config.attn.window_size},
                    {"rope_theta", config.attn.rope_theta}};
  }
  return json.dump(2);
}

}  // namespace joint_recall
