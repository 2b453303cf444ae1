#pragma once

#include "core/cpu_level.hpp"
#include "hax/context.h"

struct hax_context {
  int num_threads;          // of the CPU backend, >= 1
  hax::CpuLevel cpu_level;  // one that was built and that the machine supports
};

namespace hax {

using Context = hax_context;

}  // namespace hax
