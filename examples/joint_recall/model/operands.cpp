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

const hax_tensor* Operands::make_tokens(const void* data, hax_data_type type, int64_t stride,
                                        std::initializer_list<int64_t> axes) {
  Tensor& tensor = tensors_.emplace_back();
  tensor.shape[0] = pass_.batch;
  tensor.shape[1] = pass_.length;
  tensor.strides[0] = pass_.length * stride;
  tensor.strides[1] = stride;
  const size_t ndim = 2 + axes.size();
  std::copy(axes.begin(), axes.end(), tensor.shape.begin() + 2);
  int64_t step = 1;
  for (size_t axis = ndim; axis-- > 2;) {
    tensor.strides[axis] = step;
    step *= tensor.shape[axis];
  }
  tensor.descriptor = {const_cast<void*>(data),
                       pass_.backend.device(),
                       static_cast<int32_t>(ndim),
                       type,
                       tensor.shape.data(),
                       tensor.strides.data(),
                       0};
  return &tensor.descriptor;
}

const hax_tensor* Operands::in(ConstMatrix tokens, std::initializer_list<int64_t> axes) {
  if (!tokens.present()) return nullptr;
  if (pass_.precision == Precision::kFp32) {
    return make_tokens(tokens.data, HAX_FP32, tokens.stride, axes);
  }
  auto* converted = pass_.arena.take<uint16_t>(tokens.rows * tokens.columns);
  pass_.backend.to_bf16(tokens, converted);
  return make_tokens(converted, HAX_BF16, tokens.columns, axes);
}

const hax_tensor* Operands::out(Matrix tokens, std::initializer_list<int64_t> axes) {
  if (!tokens.present()) return nullptr;
  if (pass_.precision == Precision::kFp32) {
    return make_tokens(tokens.data, HAX_FP32, tokens.stride, axes);
  }
  auto* source = pass_.arena.take<uint16_t>(tokens.rows * tokens.columns);
  outputs_.push_back({source, tokens});
  return make_tokens(source, HAX_BF16, tokens.columns, axes);
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
const hax_tensor* Operands::cu_seqlens() { return int32(pass_.cu_seqlens, {pass_.sequences + 1}); }

const hax_tensor* Operands::gradient(const Weight& weight, std::initializer_list<int64_t> shape) {
  if (!weight.present()) return nullptr;
  const Matrix result = pass_.arena.matrix(1, weight.count());
  gradients_.push_back({result, compact(weight.gradient, 1, weight.count())});
  return fp32(result.data, shape);
}

void Operands::check(const char* name, hax_status status) {
  if (status == HAX_SUCCESS) return;
  throw ModelError(fmt::format("{}: {}: {}", name, hax_status_name(status), hax_last_error()));
}

void Operands::finish() {
  for (const Output& output : outputs_) pass_.backend.from_bf16(output.source, output.target);
  for (const Gradient& gradient : gradients_) {
    pass_.backend.add(1.0f, gradient.source, gradient.target);
  }
  outputs_.clear();
  gradients_.clear();
}

}  // namespace joint_recall
