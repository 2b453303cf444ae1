// Choice of the CPU level at run time; for files compiled once, not for the kernels themselves.
#pragma once

#include <cstddef>
#include <iterator>
#include <utility>

#include "core/cpu_level.hpp"

namespace hax {

// In ascending order, from the build; the first one runs everywhere.
inline constexpr CpuLevel kBuiltCpuLevels[] = {
#define HAX_CPU_LEVEL(name) CpuLevel::name,
#include "hax_cpu_levels.inc"
#undef HAX_CPU_LEVEL
};

// As in the documentation: "x86-64-v3".
const char* name_of(CpuLevel level);

bool machine_supports(CpuLevel level);

// The best level that was built and that the machine supports.
CpuLevel best_cpu_level();

// Calls f(CpuLevelTag<level>) for one of the built levels.
template <class F>
void with_cpu_level(CpuLevel level, F&& f) {
  [&]<size_t... i>(std::index_sequence<i...>) {
    (void)((kBuiltCpuLevels[i] == level ? (f(CpuLevelTag<kBuiltCpuLevels[i]>{}), true) : false) ||
           ...);
  }
  (std::make_index_sequence<std::size(kBuiltCpuLevels)>{});
}

}  // namespace hax
