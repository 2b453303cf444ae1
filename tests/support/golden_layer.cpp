#include "golden_layer.hpp"

#include <nlohmann/json.hpp>

namespace hax_test {
namespace {

nlohmann::json described_cases(const Safetensors& file) {
  return nlohmann::json::parse(file.metadata().at("cases"));
}

}  // namespace

std::vector<std::string> golden_layer_cases(const Safetensors& file) {
  std::vector<std::string> cases;
  const nlohmann::json described = described_cases(file);
  for (const auto& [name, description] : described.items()) cases.push_back(name);
  return cases;
}

std::string golden_test_name(std::string case_name) {
  for (char& c : case_name) {
    if (c == '/' || c == '+') c = '_';
  }
  return case_name;
}

LayerArgs golden_layer_args(const Safetensors& file, const std::string& case_name) {
  const nlohmann::json config = described_cases(file).at(case_name).at("config");
  LayerArgs args;
  args.config.mamba2 = case_name.rfind("mamba2/", 0) == 0;
  args.config.pattern = config.at("sparse_arch");
  args.config.hidden_size = config.at("hidden_size");
  args.config.inner_size = config.at("intermediate_size");
  args.config.state_size = config.at("state_size");
  args.config.time_step_rank = config.at("time_step_rank");
  args.config.num_heads = config.at("num_heads");
  args.config.head_dim = config.at("head_dim");
  args.config.n_groups = config.at("n_groups");
  args.config.sparse_keys = config.at("sparse_keys");
  args.config.data_max_length = config.at("data_max_length");
  args.config.norm_epsilon = config.at("layer_norm_epsilon");

  const std::string prefix = case_name + "/param.";
  for (const std::string& name : file.names()) {
    if (name.rfind(prefix, 0) == 0) args.param[name.substr(prefix.size())] = file.load(name);
  }
  args.hidden_states = file.load(case_name + "/hidden_states");
  args.attention_mask = file.load_if_present(case_name + "/attention_mask");
  args.hash_projection = file.load_if_present(case_name + "/hash_projection");
  args.ranking_noise = file.load_if_present(case_name + "/ranking_noise");
  return args;
}

double golden_gate_weight(const Safetensors& file, const std::string& case_name) {
  return described_cases(file).at(case_name).at("loss_weight_gate");
}

}  // namespace hax_test
