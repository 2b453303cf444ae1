// key_select's rooms: check (arguments to Params), plan (workspace, backend), host (the operator on the
// CPU).
#pragma once

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/tensor.hpp"
#include "core/workspace.hpp"
#include "hax/key_selection.h"

namespace hax::key_select {

struct Params {
  hax_device device;
  int64_t heads;  // H
  int64_t budget;
  Sequences sequences;
  Tensor score, eviction;
};

struct Plan {
  int64_t capacity;    // most keys that can be held at once
  uint64_t* selected;  // (threads, capacity)
};

struct Forward {
  using Args = hax_key_select_forward_args;
  static constexpr const char* name = "hax_key_select_forward";
  static Params check(Checker&, const Args&);
  static Plan plan(const Params&, const Context&, Workspace&);
  static void run(const Params&, const Plan&, const Context&, void* stream);
};

void host_forward(const Params&, const Plan&, int num_threads);

}  // namespace hax::key_select
