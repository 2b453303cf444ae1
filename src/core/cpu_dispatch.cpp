#include "core/cpu_dispatch.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace hax {
#if defined(__x86_64__)
namespace {

// What x86-64-v3 has and not every compiler's __builtin_cpu_supports knows: F16C, MOVBE, LZCNT.
bool has_rest_of_v3() {
  constexpr unsigned kMovbe = 1u << 22, kF16c = 1u << 29, kLzcnt = 1u << 5;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kMovbe) == 0 || (c & kF16c) == 0) return false;
  return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & kLzcnt) != 0;
}

}  // namespace
#endif

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
             __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_rest_of_v3();
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
