// The CPU backend's kernels are compiled once per instruction-set level; the best one the machine has
// is chosen at run time. Files named *_cpu*.cpp are compiled with HAX_CPU_LEVEL_NAME set to one of the
// names below and define explicit specialisations of functions templated on the level.
#pragma once

#include "core/element.hpp"

namespace hax {

enum class CpuLevel { baseline, x86_64, x86_64_v3, x86_64_v4 };

#ifdef HAX_CPU_LEVEL_NAME
inline constexpr CpuLevel kCpuLevel = CpuLevel::HAX_CPU_LEVEL_NAME;
#endif

template <CpuLevel level>
struct CpuLevelTag {
  static constexpr CpuLevel value = level;
};

}  // namespace hax
