// Rows of a tensor of any float type and stride as contiguous fp32, for the CPU kernels. The type is
// looked at once a row, so the arithmetic between the rows needs no templates on it. Not inlined: a call a
// row costs little, a copy of all types' loops at every use makes the library several times larger.
#pragma once

#include "core/dispatch.hpp"
#include "core/simd.hpp"
#include "core/tensor.hpp"

namespace hax::simd {
inline namespace HAX_CPU_LEVEL_NAME {

// n elements of `from` along its last axis, starting `offset` elements behind its data.
[[gnu::noinline]] inline void load_row(float* to, const Tensor& from, int64_t offset, int64_t n) {
  const int64_t stride = from.stride[from.ndim - 1];
  dispatch_float(from.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    load_row(to, static_cast<const T*>(from.data) + offset, stride, n);
  });
}

[[gnu::noinline]] inline void store_row(const Tensor& to, int64_t offset, const float* from,
                                        int64_t n) {
  const int64_t stride = to.stride[to.ndim - 1];
  dispatch_float(to.type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    store_row(static_cast<T*>(to.data) + offset, stride, from, n);
  });
}

HAX_INLINE void zero_row(float* to, int64_t n) { std::memset(to, 0, static_cast<size_t>(n) * 4); }

}  // namespace HAX_CPU_LEVEL_NAME
}  // namespace hax::simd
