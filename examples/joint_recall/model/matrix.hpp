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

enum class Element : int32_t { kFp32, kBf16 };

inline int64_t bytes_of(Element element) { return element == Element::kFp32 ? 4 : 2; }

// A matrix whose element type the backend chose: activations, and weights as products read them.
template <class Void>
struct BasicTokens {
  template <class T>
  using Like = std::conditional_t<std::is_const_v<Void>, const T, T>;

  Void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  Element element = Element::kFp32;

  BasicTokens() = default;
  BasicTokens(Void* memory, int64_t row_count, int64_t column_count, int64_t row_stride,
              Element type)
      : data(memory), rows(row_count), columns(column_count), stride(row_stride), element(type) {}
  template <class T>
  requires(std::is_convertible_v<T*, Void*>) BasicTokens(const BasicMatrix<T>& m)
      : BasicTokens(m.data, m.rows, m.columns, m.stride, Element::kFp32) {}
  template <class Other>
  requires(std::is_same_v<const Other, Void>) BasicTokens(const BasicTokens<Other>& t)
      : BasicTokens(t.data, t.rows, t.columns, t.stride, t.element) {}

  bool present() const { return data != nullptr; }
  bool is_bf16() const { return element == Element::kBf16; }
  BasicTokens slice(int64_t first, int64_t count) const {
    auto* bytes = static_cast<Like<char>*>(data);
    return {bytes == nullptr ? nullptr : bytes + first * bytes_of(element), rows, count, stride,
            element};
  }
  // Of fp32 ones.
  BasicMatrix<Like<float>> fp32() const {
    return {static_cast<Like<float>*>(data), rows, columns, stride};
  }
};

using Tokens = BasicTokens<void>;
using ConstTokens = BasicTokens<const void>;

}  // namespace joint_recall
