// Whole-number arithmetic of tiles and padding.
#pragma once

#include "core/element.hpp"

namespace hax {

HAX_EVERYWHERE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
HAX_EVERYWHERE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace hax
