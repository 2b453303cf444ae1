#ifdef HAX_WITH_CUDA
#include "huge_tensor.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "device_copy.hpp"
#include "tensor_builder.hpp"

namespace hax_test {
namespace {

void require(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

}  // namespace

bool gpu_has_free(int64_t bytes) {
  if (!tests_use_cuda()) return false;
  size_t available = 0, total = 0;
  return cudaMemGetInfo(&available, &total) == cudaSuccess &&
         static_cast<int64_t>(available) >= bytes;
}

HugeTensor::HugeTensor(std::vector<int64_t> shape, hax_data_type type)
    : shape_(std::move(shape)), type_(type), count_(numel_of(shape_)) {
  require(cudaMalloc(&data_, static_cast<size_t>(count_ * type.bits / 8)), "memory");
}

HugeTensor::HugeTensor(HugeTensor&& other) noexcept
    : shape_(std::move(other.shape_)), type_(other.type_), count_(other.count_) {
  std::swap(data_, other.data_);
}

HugeTensor::~HugeTensor() { cudaFree(data_); }

HugeTensor HugeTensor::input(std::vector<int64_t> shape, hax_data_type type, double low,
                             double high, uint64_t seed) {
  HugeTensor tensor(std::move(shape), type);
  const int64_t period = std::min(tensor.count_, (int64_t{1} << 20) + 7);
  const Argument values =
      Argument::input(random_uniform({period}, seed, low, high), type, Layout::compact);
  const hax_tensor& host = *values.arg();
  const int64_t size = type.bits / 8, bytes = tensor.count_ * size;
  char* const to = static_cast<char*>(tensor.data_);
  require(cudaMemcpy(to, static_cast<const char*>(host.data) + host.byte_offset,
                     static_cast<size_t>(period * size), cudaMemcpyHostToDevice),
          "upload");
  for (int64_t filled = period * size; filled < bytes; filled *= 2) {
    require(cudaMemcpy(to + filled, to, static_cast<size_t>(std::min(filled, bytes - filled)),
                       cudaMemcpyDeviceToDevice),
            "fill");
  }
  return tensor;
}

HugeTensor HugeTensor::output(std::vector<int64_t> shape, hax_data_type type) {
  HugeTensor tensor(std::move(shape), type);
  require(cudaMemset(tensor.data_, 0xff, static_cast<size_t>(tensor.count_ * type.bits / 8)),
          "poison");
  return tensor;
}

const hax_tensor* HugeTensor::arg() {
  tensor_ = {data_, {HAX_DEVICE_CUDA, 0}, static_cast<int32_t>(shape_.size()),
             type_, shape_.data(),        nullptr,
             0};
  return &tensor_;
}

Array HugeTensor::block(int64_t width, int64_t first_row, int64_t rows, int64_t first_column,
                        int64_t columns) const {
  const Argument host = Argument::output({rows, columns}, type_);
  const size_t size = type_.bits / 8;
  const hax_tensor& to = *host.arg();
  const size_t wide = static_cast<size_t>(columns) * size,
               pitch = static_cast<size_t>(width) * size;
  require(cudaMemcpy2D(static_cast<char*>(to.data) + to.byte_offset, wide,
                       static_cast<const char*>(data_) +
                           static_cast<size_t>(first_row * width + first_column) * size,
                       pitch, wide, static_cast<size_t>(rows), cudaMemcpyDeviceToHost),
          "download");
  return host.array();
}

}  // namespace hax_test
#endif
