#include "model/parameters.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace joint_recall {
namespace {

constexpr int64_t kAlignment = 64;  // floats

const char* to_string(ParameterPart part) {
  switch (part) {
    case ParameterPart::kValue: return "value";
    case ParameterPart::kGradient: return "gradient";
    case ParameterPart::kFirstMoment: return "first moment";
    case ParameterPart::kSecondMoment: return "second moment";
  }
  return "unknown part";
}

}  // namespace

ParameterStore::~ParameterStore() {
  if (memory_ != nullptr) backend_.release(memory_);
  if (rounded_ != nullptr) backend_.release(rounded_);
}

void ParameterStore::declare(const std::string& name, std::vector<int64_t> shape, bool trainable) {
  if (memory_ != nullptr || contains(name)) {
    throw ModelError(fmt::format("parameter {}: declared twice or too late", name));
  }
  Parameter parameter{name, std::move(shape), 1, 0, trainable};
  for (const int64_t length : parameter.shape) parameter.count *= length;
  parameters_.push_back(std::move(parameter));
}

void ParameterStore::allocate() {
  std::stable_partition(parameters_.begin(), parameters_.end(),
                        [](const Parameter& parameter) { return parameter.trainable; });
  for (Parameter& parameter : parameters_) {
    parameter.offset = end_;
    end_ += (parameter.count + kAlignment - 1) / kAlignment * kAlignment;
    if (parameter.trainable) trainable_end_ = end_;
  }
  const auto bytes = static_cast<size_t>(end_ + 4 * trainable_end_) * sizeof(float);
  memory_ = static_cast<float*>(backend_.allocate(bytes));
  backend_.zero(memory_, bytes);
  if (backend_.activations() == Element::kFp32) return;
  const auto rounded_bytes = static_cast<size_t>(end_) * sizeof(uint16_t);
  rounded_ = static_cast<uint16_t*>(backend_.allocate(rounded_bytes));
  backend_.zero(rounded_, rounded_bytes);
}

const Parameter* ParameterStore::find(const std::string& name) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.name == name) return &parameter;
  }
  return nullptr;
}

const Parameter& ParameterStore::parameter(const std::string& name) const {
  const Parameter* parameter = find(name);
  if (parameter == nullptr) throw ModelError(fmt::format("parameter {}: the model has none", name));
  return *parameter;
}

Weight ParameterStore::weight(const std::string& name) const {
  const Parameter& p = parameter(name);
  const int64_t rows = p.shape.empty() ? 1 : p.shape.front();
  Weight weight{
      .value = memory_ + p.offset, .rows = rows, .columns = rows == 0 ? 0 : p.count / rows};
  if (p.trainable) {
    weight.gradient = part(ParameterPart::kGradient) + p.offset;
    weight.fresh = memory_ + end_ + 3 * trainable_end_ + p.offset;
  }
  if (rounded_ != nullptr) weight.rounded = rounded_ + p.offset;
  return weight;
}

Weight ParameterStore::weight_if_declared(const std::string& name) const {
  return contains(name) ? weight(name) : Weight{};
}

int64_t ParameterStore::trainable_count() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_) count += parameter.trainable ? parameter.count : 0;
  return count;
}

float* ParameterStore::part(ParameterPart part) const {
  if (part == ParameterPart::kValue) return memory_;
  return memory_ + end_ + (static_cast<int64_t>(part) - 1) * trainable_end_;
}

float* ParameterStore::checked(const Parameter& p, ParameterPart which, size_t count) const {
  if (!p.trainable && which != ParameterPart::kValue) {
    throw ModelError(fmt::format("parameter {}: a buffer has no {}", p.name, to_string(which)));
  }
  if (static_cast<int64_t>(count) != p.count) {
    throw ModelError(fmt::format("parameter {}: expected {} numbers as its {}, got {}", p.name,
                                 p.count, to_string(which), count));
  }
  return part(which) + p.offset;
}

void ParameterStore::get(const Parameter& parameter, ParameterPart which,
                         std::span<float> values) const {
  backend_.copy_out(values.data(), checked(parameter, which, values.size()), values.size_bytes());
}

void ParameterStore::set(const Parameter& parameter, ParameterPart which,
                         std::span<const float> values) {
  float* target = checked(parameter, which, values.size());
  backend_.copy_in(target, values.data(), values.size_bytes());
  if (which != ParameterPart::kValue || rounded_ == nullptr) return;
  const ConstMatrix row = compact(static_cast<const float*>(target), 1, parameter.count);
  backend_.copy(row,
                {rounded_ + parameter.offset, 1, parameter.count, parameter.count, Element::kBf16});
}

void ParameterStore::clear(ParameterPart which) {
  const int64_t count = which == ParameterPart::kValue ? end_ : trainable_end_;
  backend_.zero(part(which), static_cast<size_t>(count) * sizeof(float));
}

void ParameterStore::add_fresh_gradients() {
  const float* fresh = memory_ + end_ + 3 * trainable_end_;
  backend_.add(compact(fresh, 1, trainable_end_),
               compact(part(ParameterPart::kGradient), 1, trainable_end_));
}

}  // namespace joint_recall
