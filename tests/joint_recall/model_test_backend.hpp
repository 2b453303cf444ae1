// The backend that tests of the model run on: a GPU's with HAX_TEST_DEVICE=cuda, otherwise the CPU's.
#pragma once

#include <memory>
#include <vector>

#include "model/backend.hpp"
#include "support/device_copy.hpp"

namespace joint_recall {

inline std::unique_ptr<Backend> make_test_backend(
    [[maybe_unused]] Precision precision = Precision::kFp32) {
#ifdef JOINT_RECALL_WITH_CUDA
  if (hax_test::tests_use_cuda()) return make_cuda_backend(0, precision);
#endif
  return make_cpu_backend();
}

// Memory of a backend that holds some numbers.
template <class T>
class OnBackend {
 public:
  OnBackend(Backend& backend, const std::vector<T>& values)
      : backend_(backend), count_(values.size()), bytes_(count_ * sizeof(T)) {
    data_ = static_cast<T*>(backend_.allocate(bytes_));
    backend_.copy_in(data_, values.data(), bytes_);
  }
  ~OnBackend() { backend_.release(data_); }
  OnBackend(const OnBackend&) = delete;
  OnBackend& operator=(const OnBackend&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    backend_.copy_out(result.data(), data_, bytes_);
    return result;
  }

 private:
  Backend& backend_;
  size_t count_, bytes_;
  T* data_;
};

}  // namespace joint_recall
