#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace hax_test {

// Dense row-major fp64 tensor. A default-constructed Array means "absent".
struct Array {
  std::vector<int64_t> shape;
  std::vector<double> data;

  Array() = default;
  explicit Array(std::vector<int64_t> dims, double value = 0.0);
  Array(std::vector<int64_t> dims, std::vector<double> values);

  bool present() const { return !shape.empty() || !data.empty(); }
  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  int64_t numel() const { return static_cast<int64_t>(data.size()); }
  int64_t size(int64_t axis) const;                // negative axes count from the back
  Array reshape(std::vector<int64_t> dims) const;  // one entry may be -1

  template <class... Index>
  double& at(Index... index) {
    return data[offset({static_cast<int64_t>(index)...})];
  }
  template <class... Index>
  double at(Index... index) const {
    return data[offset({static_cast<int64_t>(index)...})];
  }

 private:
  size_t offset(std::initializer_list<int64_t> index) const {
    if (index.size() != shape.size()) throw std::out_of_range("Array::at: wrong number of indices");
    int64_t flat = 0;
    size_t axis = 0;
    for (int64_t i : index) {
      if (i < 0 || i >= shape[axis]) throw std::out_of_range("Array::at: index outside the shape");
      flat = flat * shape[axis] + i;
      ++axis;
    }
    return static_cast<size_t>(flat);
  }
};

int64_t numel_of(const std::vector<int64_t>& shape);
std::string to_string(const std::vector<int64_t>& shape);

Array zeros(std::vector<int64_t> shape);
Array zeros_like(const Array& a);
Array random_normal(std::vector<int64_t> shape, uint64_t seed, double mean = 0.0,
                    double deviation = 1.0);
Array random_uniform(std::vector<int64_t> shape, uint64_t seed, double low, double high);

double dot(const Array& a, const Array& b);
void add_into(Array& sum, const Array& term);

// Columns [begin, end) of the last axis, and the reverse: adding `part` back at `begin`.
Array slice_last(const Array& a, int64_t begin, int64_t end);
void add_into_last(Array& sum, int64_t begin, const Array& part);

// Entries [begin, end) of one axis; for cutting sequences out of a packed tensor.
Array slice_axis(const Array& a, int64_t axis, int64_t begin, int64_t end);
Array concat_axis(const std::vector<Array>& parts, int64_t axis);

// One sequence of a (B, L, ...) or packed (1, total, ...) tensor, as rows of the flattened tokens.
struct Sequence {
  int64_t first_row;
  int64_t length;
};

// Empty cu_seqlens: the B sequences of length L of x. Otherwise x is (1, total, ...) and
// cu_seqlens holds S + 1 offsets.
std::vector<Sequence> sequences_of(const Array& x, const std::vector<int64_t>& cu_seqlens);

// (B, L, rest...) -> (B * L, rest...), absent stays absent.
Array flat_tokens(const Array& x);

}  // namespace hax_test
