#include "core/cpu_dispatch.hpp"

namespace hax {

const char* name_of(CpuLevel level) {
  switch (level) {
    case CpuLevel::baseline: return "baseline";
    case CpuLevel::x86_64: return "x86-64";
    case CpuLevel::x86_64_v3: return "x86-64-v3";
    case CpuLevel::x86_64_v4: return "x86-64-v4";
  }
  return "unknown";
}

bool machine_supports(CpuLevel level) {
#if defined(__x86_64__)
  switch (level) {
    case CpuLevel::baseline:
    case CpuLevel::x86_64: return true;
    case CpuLevel::x86_64_v3:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    case CpuLevel::x86_64_v4:
      return machine_supports(CpuLevel::x86_64_v3) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
#else
  return level == CpuLevel::baseline;
#endif
}

CpuLevel best_cpu_level() {
  CpuLevel best = kBuiltCpuLevels[0];
  for (const CpuLevel level : kBuiltCpuLevels) {
    if (machine_supports(level)) best = level;
  }
  return best;
}

}  // namespace hax
