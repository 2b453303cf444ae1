#include "model/operands.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "model/error.hpp"

namespace joint_recall {

const hax_tensor* Operands::make(const void* data, hax_data_type type,
                                 std::initializer_list<int64_t> shape) {
  if (data == nullptr) return nullptr;
  Tensor& tensor = tensors_.emplace_back();
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  // hax_tensor has no const form; libhax writes only to what it documents as out.
  tensor.descriptor = {const_cast<void*>(data),
                       pass_.backend.device(),
                       static_cast<int32_t>(shape.size()),
                       type,
                       tensor.shape.data(),
                       nullptr,
                       0};
  return &tensor.descriptor;
}

double Operands::tensor_bytes() const {
  double bytes = 0.0;
  for (const Tensor& tensor : tensors_) {
    double elements = 1.0;
    for (int32_t axis = 0; axis < tensor.descriptor.ndim; ++axis) {
      elements *= static_cast<double>(tensor.shape[static_cast<size_t>(axis)]);
    }
    bytes += elements * tensor.descriptor.dtype.bits / 8.0;
  }
  return bytes;
}

const hax_tensor* Operands::make_tokens(ConstTokens tokens, std::initializer_list<int64_t> axes) {
  Tensor& tensor = tensors_.emplace_back();
  tensor.shape[0] = pass_.batch;
  tensor.shape[1] = pass_.length;
  tensor.strides[0] = pass_.length * tokens.stride;
  tensor.strides[1] = tokens.stride;
  const size_t ndim = 2 + axes.size();
  std::copy(axes.begin(), axes.end(), tensor.shape.begin() + 2);
  int64_t step = 1;
  for (size_t axis = ndim; axis-- > 2;) {
    tensor.strides[axis] = step;
    step *= tensor.shape[axis];
  }
  constexpr hax_data_type kFp32 = HAX_FP32, kBf16 = HAX_BF16;
  tensor.descriptor = {const_cast<void*>(tokens.data),
                       pass_.backend.device(),
                       static_cast<int32_t>(ndim),
                       tokens.is_bf16() ? kBf16 : kFp32,
                       tensor.shape.data(),
                       tensor.strides.data(),
                       0};
  return &tensor.descriptor;
}

bool Operands::converts(ConstTokens tokens) const {
  return pass_.precision == Precision::kBf16 && !tokens.is_bf16();
}

Tokens Operands::converted(ConstTokens tokens) {
  auto* memory = pass_.arena.take<uint16_t>(tokens.rows * tokens.columns);
  return {memory, tokens.rows, tokens.columns, tokens.columns, Element::kBf16};
}

const hax_tensor* Operands::in(ConstTokens tokens, std::initializer_list<int64_t> axes) {
  if (!tokens.present()) return nullptr;
  if (!converts(tokens)) return make_tokens(tokens, axes);
  const Tokens rounded = converted(tokens);
  pass_.backend.copy(tokens, rounded);
  return make_tokens(rounded, axes);
}

const hax_tensor* Operands::out(Tokens tokens, std::initializer_list<int64_t> axes) {
  if (!tokens.present()) return nullptr;
  if (!converts(tokens)) return make_tokens(tokens, axes);
  const Tokens rounded = converted(tokens);
  outputs_.push_back({rounded, tokens});
  return make_tokens(rounded, axes);
}

const hax_tensor* Operands::fp32(const float* data, std::initializer_list<int64_t> shape) {
  return make(data, HAX_FP32, shape);
}
const hax_tensor* Operands::int32(const int32_t* data, std::initializer_list<int64_t> shape) {
  return make(data, HAX_INT32, shape);
}
const hax_tensor* Operands::int64(const int64_t* data, std::initializer_list<int64_t> shape) {
  return make(data, HAX_INT64, shape);
}
const hax_tensor* Operands::int64_head(const int64_t* data, int64_t head, int64_t heads) {
  make(data + head * pass_.length, HAX_INT64, {pass_.batch, 1, pass_.length});
  Tensor& tensor = tensors_.back();
  tensor.strides = {heads * pass_.length, pass_.length, 1, 0};
  tensor.descriptor.strides = tensor.strides.data();
  return &tensor.descriptor;
}
const hax_tensor* Operands::cu_seqlens() { return int32(pass_.cu_seqlens, {pass_.sequences + 1}); }

const hax_tensor* Operands::gradient(const Weight& weight, std::initializer_list<int64_t> shape) {
  return fp32(pass_.adds_gradients ? weight.fresh : weight.gradient, shape);
}

void Operands::check(const char* name, hax_status status) {
  if (status == HAX_SUCCESS) return;
  throw ModelError(fmt::format("{}: {}: {}", name, hax_status_name(status), hax_last_error()));
}

void Operands::finish() {
  for (const Output& output : outputs_) pass_.backend.copy(output.source, output.target);
  outputs_.clear();
}

}  // namespace joint_recall
