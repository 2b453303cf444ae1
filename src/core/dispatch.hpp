// From run-time values to compile-time ones, over lists that name what has code.
#pragma once

#include <type_traits>

#include "core/element.hpp"

namespace hax {

template <class T>
struct TypeTag {
  using type = T;
};

// Calls f(TypeTag<T>) for the T of the list that `type` names. The validators have rejected all others.
template <class... List, class F>
HAX_INLINE void dispatch_type(Type type, F&& f) {
  (void)((type == type_of<List> ? (f(TypeTag<List>{}), true) : false) || ...);
}

// The three activation types.
template <class F>
HAX_INLINE void dispatch_float(Type type, F&& f) {
  dispatch_type<float, fp16, bf16>(type, f);
}

// Calls f(integral_constant) with the first value of the list that equals `value`, or else with the
// last one, which is the general case by convention.
template <int First, int... Rest, class F>
HAX_INLINE void dispatch_value(int64_t value, F&& f) {
  if constexpr (sizeof...(Rest) == 0) {
    f(std::integral_constant<int, First>{});
  } else {
    if (value == First) {
      f(std::integral_constant<int, First>{});
    } else {
      dispatch_value<Rest...>(value, f);
    }
  }
}

}  // namespace hax
