// Matrices on the GPU with more elements than 32 bits count, of which a test looks at a few columns.
#pragma once

#ifdef HAX_WITH_CUDA
#include <cstdint>
#include <vector>

#include "array.hpp"
#include "hax/hax.h"

namespace hax_test {

// Whether tests run on a GPU that has `bytes` free.
bool gpu_has_free(int64_t bytes);

class HugeTensor {
 public:
  // Random values, uniform between the bounds, that repeat after about a million elements.
  static HugeTensor input(std::vector<int64_t> shape, hax_data_type type, double low, double high,
                          uint64_t seed);
  // Filled with NaN.
  static HugeTensor output(std::vector<int64_t> shape, hax_data_type type);
  ~HugeTensor();
  HugeTensor(HugeTensor&& other) noexcept;
  HugeTensor& operator=(HugeTensor&&) = delete;

  const hax_tensor* arg();
  // Taken as a matrix of rows of `width` elements: a block of it, as (rows, columns).
  Array block(int64_t width, int64_t first_row, int64_t rows, int64_t first_column,
              int64_t columns) const;

 private:
  HugeTensor(std::vector<int64_t> shape, hax_data_type type);

  std::vector<int64_t> shape_;
  hax_data_type type_;
  int64_t count_;
  void* data_ = nullptr;
  hax_tensor tensor_ = {};
};

}  // namespace hax_test
#endif
