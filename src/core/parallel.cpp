#include "core/parallel.hpp"

#include <omp.h>

#include <algorithm>

namespace hax {

void parallel_run(int num_threads, int64_t tasks, void (*body)(void*, int64_t, int), void* state) {
  const int threads = static_cast<int>(std::min<int64_t>(num_threads, tasks));
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(state, task, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) body(state, task, thread);
  }
}

}  // namespace hax
