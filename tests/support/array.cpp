#include "array.hpp"

#include <algorithm>
#include <random>

namespace hax_test {
namespace {

// Extents before, at and after one axis.
struct AxisSplit {
  int64_t outer = 1, extent = 0, inner = 1;
};

AxisSplit split_at(const Array& a, int64_t axis) {
  if (axis < 0) axis += a.rank();
  AxisSplit split;
  split.extent = a.size(axis);
  for (int64_t i = 0; i < axis; ++i) split.outer *= a.size(i);
  for (int64_t i = axis + 1; i < a.rank(); ++i) split.inner *= a.size(i);
  return split;
}

}  // namespace

int64_t numel_of(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) {
    if (extent < 0) throw std::invalid_argument("Array: negative extent");
    count *= extent;
  }
  return count;
}

std::string to_string(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + ")";
}

Array::Array(std::vector<int64_t> dims, double value)
    : shape(std::move(dims)), data(static_cast<size_t>(numel_of(shape)), value) {}

Array::Array(std::vector<int64_t> dims, std::vector<double> values)
    : shape(std::move(dims)), data(std::move(values)) {
  if (numel_of(shape) != numel()) {
    throw std::invalid_argument("Array: shape " + to_string(shape) + " needs " +
                                std::to_string(numel_of(shape)) + " values, got " +
                                std::to_string(numel()));
  }
}

int64_t Array::size(int64_t axis) const {
  if (axis < 0) axis += rank();
  if (axis < 0 || axis >= rank()) throw std::out_of_range("Array::size: no such axis");
  return shape[static_cast<size_t>(axis)];
}

Array Array::reshape(std::vector<int64_t> dims) const {
  int64_t known = 1;
  int64_t* inferred = nullptr;
  for (int64_t& extent : dims) {
    if (extent == -1) {
      inferred = &extent;
    } else {
      known *= extent;
    }
  }
  if (inferred != nullptr) *inferred = known == 0 ? 0 : numel() / known;
  return Array(std::move(dims), data);
}

Array zeros(std::vector<int64_t> shape) { return Array(std::move(shape)); }

Array zeros_like(const Array& a) { return Array(a.shape); }

Array random_normal(std::vector<int64_t> shape, uint64_t seed, double mean, double deviation) {
  Array a(std::move(shape));
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> draw(mean, deviation);
  for (double& value : a.data) value = draw(engine);
  return a;
}

Array random_uniform(std::vector<int64_t> shape, uint64_t seed, double low, double high) {
  Array a(std::move(shape));
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> draw(low, high);
  for (double& value : a.data) value = draw(engine);
  return a;
}

double dot(const Array& a, const Array& b) {
  if (a.shape != b.shape) throw std::invalid_argument("dot: shapes differ");
  double sum = 0.0;
  for (size_t i = 0; i < a.data.size(); ++i) sum += a.data[i] * b.data[i];
  return sum;
}

void add_into(Array& sum, const Array& term) {
  if (sum.shape != term.shape) throw std::invalid_argument("add_into: shapes differ");
  for (size_t i = 0; i < sum.data.size(); ++i) sum.data[i] += term.data[i];
}

Array slice_last(const Array& a, int64_t begin, int64_t end) {
  return slice_axis(a, a.rank() - 1, begin, end);
}

void add_into_last(Array& sum, int64_t begin, const Array& part) {
  const int64_t rows = split_at(sum, -1).outer;
  const int64_t width = sum.size(-1), taken = part.size(-1);
  if (split_at(part, -1).outer != rows || begin + taken > width) {
    throw std::invalid_argument("add_into_last: shapes do not match");
  }
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < taken; ++c) {
      sum.data[static_cast<size_t>(r * width + begin + c)] +=
          part.data[static_cast<size_t>(r * taken + c)];
    }
  }
}

Array slice_axis(const Array& a, int64_t axis, int64_t begin, int64_t end) {
  if (begin < 0 || end < begin || end > a.size(axis)) {
    throw std::out_of_range("slice_axis: range outside the axis");
  }
  const AxisSplit split = split_at(a, axis);
  std::vector<int64_t> shape = a.shape;
  shape[static_cast<size_t>(axis < 0 ? axis + a.rank() : axis)] = end - begin;
  Array out;
  out.shape = shape;
  for (int64_t o = 0; o < split.outer; ++o) {
    const auto row = a.data.begin() + o * split.extent * split.inner;
    out.data.insert(out.data.end(), row + begin * split.inner, row + end * split.inner);
  }
  return out;
}

Array concat_axis(const std::vector<Array>& parts, int64_t axis) {
  if (parts.empty()) throw std::invalid_argument("concat_axis: nothing to join");
  const size_t at = static_cast<size_t>(axis < 0 ? axis + parts[0].rank() : axis);
  Array out;
  out.shape = parts[0].shape;
  out.shape[at] = 0;
  for (const Array& part : parts) out.shape[at] += part.size(axis);
  for (int64_t o = 0; o < split_at(parts[0], axis).outer; ++o) {
    for (const Array& part : parts) {
      const AxisSplit split = split_at(part, axis);
      const auto row = part.data.begin() + o * split.extent * split.inner;
      out.data.insert(out.data.end(), row, row + split.extent * split.inner);
    }
  }
  return Array(std::move(out.shape), std::move(out.data));
}

std::vector<Sequence> sequences_of(const Array& x, const std::vector<int64_t>& cu_seqlens) {
  std::vector<Sequence> sequences;
  if (cu_seqlens.empty()) {
    for (int64_t b = 0; b < x.size(0); ++b) sequences.push_back({b * x.size(1), x.size(1)});
    return sequences;
  }
  if (x.size(0) != 1 || cu_seqlens.front() != 0 || cu_seqlens.back() != x.size(1)) {
    throw std::invalid_argument("sequences_of: cu_seqlens does not span a (1, total, ...) tensor");
  }
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    if (cu_seqlens[s + 1] < cu_seqlens[s]) {
      throw std::invalid_argument("sequences_of: cu_seqlens decreases");
    }
    sequences.push_back({cu_seqlens[s], cu_seqlens[s + 1] - cu_seqlens[s]});
  }
  return sequences;
}

Array flat_tokens(const Array& x) {
  if (!x.present()) return x;
  std::vector<int64_t> shape(x.shape.begin() + 1, x.shape.end());
  shape[0] = x.size(0) * x.size(1);
  return x.reshape(std::move(shape));
}

}  // namespace hax_test
