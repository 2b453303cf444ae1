// All parameters of a model in flat arrays, so that one call updates them and a checkpoint can hold them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/backend.hpp"
#include "model/model.hpp"

namespace joint_recall {

// One parameter as layers see it. The pointers live as long as the store.
struct Weight {
  float* value = nullptr;
  float* gradient = nullptr;  // null for a buffer
  float* fresh =
      nullptr;  // what libhax made of the gradient in a pass that adds; null for a buffer
  const uint16_t* rounded = nullptr;  // the value in bf16, where activations are
  int64_t rows = 0;                   // of the matrix with the first axis as rows
  int64_t columns = 0;

  bool present() const { return value != nullptr; }
  int64_t count() const { return rows * columns; }
  // As products with activations read it.
  ConstTokens matrix() const {
    if (rounded != nullptr) return {rounded, rows, columns, columns, Element::kBf16};
    return compact(static_cast<const float*>(value), rows, columns);
  }
  Matrix gradient_matrix() const { return compact(gradient, rows, columns); }
};

// Layers first declare what they need; allocate() then lays it out, parameters before buffers
// (trainable = false), and weight() hands it out.
class ParameterStore {
 public:
  explicit ParameterStore(Backend& backend) : backend_(backend) {}
  ~ParameterStore();
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  void declare(const std::string& name, std::vector<int64_t> shape, bool trainable = true);
  void allocate();

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const Parameter& parameter(const std::string& name) const;  // throws ModelError
  bool contains(const std::string& name) const { return find(name) != nullptr; }
  Weight weight(const std::string& name) const;
  // An absent Weight where the name isn't declared.
  Weight weight_if_declared(const std::string& name) const;
  int64_t trainable_count() const;  // without the gaps that align parameters

  float* part(ParameterPart part) const;
  int64_t flat_count() const { return trainable_end_; }  // of trainable parts, gaps included
  void get(const Parameter& parameter, ParameterPart part, std::span<float> values) const;
  void set(const Parameter& parameter, ParameterPart part, std::span<const float> values);
  void clear(ParameterPart part);
  // The values in bf16; NULL where activations are fp32.
  uint16_t* rounded() const { return rounded_; }
  // Adds to the gradients what libhax left in Weight::fresh, and 0 where it wasn't asked.
  void add_fresh_gradients();

 private:
  const Parameter* find(const std::string& name) const;
  float* checked(const Parameter& parameter, ParameterPart part, size_t count) const;

  Backend& backend_;
  std::vector<Parameter> parameters_;
  int64_t end_ = 0;            // length of the values
  int64_t trainable_end_ = 0;  // length of each of the other parts
  float* memory_ = nullptr;    // the parts, then the fresh gradients
  uint16_t* rounded_ = nullptr;
};

}  // namespace joint_recall
