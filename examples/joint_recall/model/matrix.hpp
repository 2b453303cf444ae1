// Borrowed matrices: rows of contiguous numbers, `stride` apart.
#pragma once

#include <cstdint>
#include <type_traits>

namespace joint_recall {

template <class T>
struct BasicMatrix {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // elements from one row to the next, >= columns

  T* row(int64_t index) const { return data + index * stride; }
  bool present() const { return data != nullptr; }
  // `count` columns from column `first` on.
  BasicMatrix slice(int64_t first, int64_t count) const {
    return {data == nullptr ? nullptr : data + first, rows, count, stride};
  }
  template <class U>
  requires(std::is_same_v<U, const T> && !std::is_const_v<T>) operator BasicMatrix<U>() const {
    return {data, rows, columns, stride};
  }
};

using Matrix = BasicMatrix<float>;
using ConstMatrix = BasicMatrix<const float>;

inline Matrix compact(float* data, int64_t rows, int64_t columns) {
  return {data, rows, columns, columns};
}
inline ConstMatrix compact(const float* data, int64_t rows, int64_t columns) {
  return {data, rows, columns, columns};
}

}  // namespace joint_recall
