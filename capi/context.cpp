#include "core/context.hpp"

#include <omp.h>

#include <new>
#include <string_view>

#include "capi/entry.hpp"
#include "core/cpu_dispatch.hpp"

namespace hax {
namespace {

CpuLevel choose_cpu_level(const char* wanted, const Checker& check) {
  if (!wanted) return best_cpu_level();
  for (const CpuLevel level : kBuiltCpuLevels) {
    if (std::string_view(wanted) == name_of(level)) {
      check.supported(machine_supports(level), "cpu_level: this machine lacks instructions of \"",
                      wanted, "\"");
      return level;
    }
  }
  std::string built;
  for (const CpuLevel level : kBuiltCpuLevels) {
    built += concat(built.empty() ? "\"" : ", \"", name_of(level), "\"");
  }
  check.fail_with(HAX_ERROR_UNSUPPORTED, "cpu_level: expected one of ", built, ", got \"", wanted,
                  "\"");
}

}  // namespace
}  // namespace hax

extern "C" {

hax_status hax_context_create(const hax_context_options* options, hax_context** context) noexcept {
  constexpr const char* name = "hax_context_create";
  return hax::capi::guard(name, [&] {
    const hax::Checker check(name, false);
    check.expect(context, "context: expected a pointer, got NULL");
    hax_context_options given = {};
    if (options) given = hax::read_struct(options, name, "options");
    check.expect(given.num_threads >= 0, "num_threads: expected at least 0, got ",
                 given.num_threads);
    *context = new hax_context{given.num_threads > 0 ? given.num_threads : omp_get_max_threads(),
                               hax::choose_cpu_level(given.cpu_level, check)};
  });
}

void hax_context_destroy(hax_context* context) noexcept { delete context; }

}  // extern "C"
