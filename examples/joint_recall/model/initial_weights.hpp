// What each parameter starts from.
#pragma once

#include <vector>

#include "model/config.hpp"
#include "model/model.hpp"

namespace joint_recall {

// The recipe's initial values of one parameter or buffer. index: its place in Model::parameters(), which
// together with the seed keys the random numbers.
std::vector<float> initial_values(const ModelConfig& config, const Parameter& parameter,
                                  uint64_t index, uint64_t seed);

}  // namespace joint_recall
