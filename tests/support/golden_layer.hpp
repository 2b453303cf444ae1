#pragma once

#include <string>
#include <vector>

#include "oracle_layer.hpp"
#include "safetensors.hpp"

namespace hax_test {

// The recorded layer cases of a golden_mixer file, in alphabetical order ("mamba/dilated", ...).
std::vector<std::string> golden_layer_cases(const Safetensors& file);

// A case's name in the characters GoogleTest allows.
std::string golden_test_name(std::string case_name);

// Configuration, parameters and inputs of one case.
LayerArgs golden_layer_args(const Safetensors& file, const std::string& case_name);

// The weight of gate_loss in the loss the recorded gradients belong to.
double golden_gate_weight(const Safetensors& file, const std::string& case_name);

}  // namespace hax_test
