// Parallel loops of the CPU backend.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/element.hpp"

namespace hax {

// Calls body(state, task, thread) for every task in [0, tasks) on at most num_threads threads; `thread`
// counts from 0 and serves to pick per-thread scratch. Tasks run in any order, so what a task writes
// must not depend on the order.
void parallel_run(int num_threads, int64_t tasks, void (*body)(void*, int64_t, int), void* state);

// The same with a callable f(task, thread).
template <class F>
HAX_INLINE void parallel_for(int num_threads, int64_t tasks, F&& f) {
  using Callable = std::remove_reference_t<F>;
  parallel_run(
      num_threads, tasks,
      [](void* state, int64_t task, int thread) { (*static_cast<Callable*>(state))(task, thread); },
      &f);
}

}  // namespace hax
