#include "model/initial_weights.hpp"

#include <algorithm>
#include <cmath>

#include "model/random.hpp"

namespace joint_recall {
namespace {

class Draws {
 public:
  Draws(const Parameter& parameter, uint64_t index, uint64_t seed)
      : values_(static_cast<size_t>(parameter.count)),
        key_{seed, RandomPurpose::kInitialWeight, 0, index, 0} {}

  std::vector<float> constant(float value) {
    std::fill(values_.begin(), values_.end(), value);
    return std::move(values_);
  }
  std::vector<float> normal(double deviation) {
    for (size_t i = 0; i < values_.size(); ++i) {
      values_[i] = static_cast<float>(deviation) * random_normal(key_, i);
    }
    return std::move(values_);
  }
  // Uniform on +-bound.
  std::vector<float> uniform(double bound) {
    for (size_t i = 0; i < values_.size(); ++i) {
      values_[i] = static_cast<float>(bound * (2.0 * random_uniform(key_, i) - 1.0));
    }
    return std::move(values_);
  }
  // log(1), log(2), ... again in each row of the length given.
  std::vector<float> log_count(int64_t row) {
    for (size_t i = 0; i < values_.size(); ++i) {
      values_[i] =
          static_cast<float>(std::log(1.0 + static_cast<double>(i % static_cast<size_t>(row))));
    }
    return std::move(values_);
  }
  // softplus(value) is log-uniform between the limits, and not below the floor.
  std::vector<float> time_step_bias(const ModelConfig& config) {
    const double low = std::log(config.time_step_min), high = std::log(config.time_step_max);
    for (size_t i = 0; i < values_.size(); ++i) {
      const double dt =
          std::max(std::exp(low + (high - low) * random_uniform(key_, i)), config.time_step_floor);
      values_[i] = static_cast<float>(dt + std::log(-std::expm1(-dt)));
    }
    return std::move(values_);
  }

 private:
  std::vector<float> values_;
  RandomKey key_;
};

}  // namespace

std::vector<float> initial_values(const ModelConfig& config, const Parameter& parameter,
                                  uint64_t index, uint64_t seed) {
  const bool mamba2 = config.base_arch == BaseArch::kMamba2;
  const std::string& name = parameter.name;
  const auto ends = [&](const char* suffix) { return name.ends_with(suffix); };
  Draws draws(parameter, index, seed);

  if (ends(".A_log")) return draws.log_count(parameter.shape.back());
  if (ends(".D") || ends(".E")) return draws.constant(1.0f);
  if (ends("norm.weight") || ends("norm_f.weight")) return draws.constant(1.0f);
  if (ends(".dt_bias") || ends(".dt_proj.bias")) return draws.time_step_bias(config);
  if (ends(".dt_proj.weight")) {
    return draws.uniform(config.time_step_scale /
                         std::sqrt(static_cast<double>(config.time_step_rank)));
  }
  if (!mamba2 && (ends(".conv1d.weight") || ends(".conv1d.bias"))) {
    return draws.uniform(1.0 / std::sqrt(static_cast<double>(config.conv_kernel)));
  }
  if (ends(".out_proj.weight") && config.rescale_prenorm_residual) {
    return draws.uniform(1.0 / std::sqrt(static_cast<double>(parameter.shape[1]) *
                                         static_cast<double>(config.num_hidden_layers)));
  }
  if (ends(".hash_projection")) return draws.normal(1.0);
  if (ends(".bias")) return draws.constant(0.0f);
  return draws.normal(config.initializer_range);
}

}  // namespace joint_recall
