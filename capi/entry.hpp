// The one way from a C function into the library: exception barrier, args struct, workspace, then the
// operator's plan and run.
//
// An Operation is a struct with
//   using Args                                    the C args struct
//   static constexpr const char* name             the C function's name
//   static Params check(Checker&, const Args&)    validates; the sole truth of what is supported
//   static Plan plan(const Params&, const Context&, Workspace&)
//   static void run(const Params&, const Plan&, const Context&, void* stream)
#pragma once

#include <cstdint>
#include <exception>
#include <new>

#include "core/check.hpp"
#include "core/context.hpp"
#include "core/error.hpp"
#include "core/nvtx_range.hpp"
#include "core/workspace.hpp"

namespace hax::capi {

// Runs f and turns what it throws into a status and this thread's error text.
template <class F>
hax_status guard(const char* function, F&& f) noexcept {
  try {
    f();
    return HAX_SUCCESS;
  } catch (const Error& error) {
    set_last_error(error.text);
    return error.status;
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory for the call's own bookkeeping");
    return HAX_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    set_last_error(concat(function, ": internal error: ", error.what()));
    return HAX_ERROR_INTERNAL;
  }
}

template <class Operation>
hax_status workspace(const hax_context* context, const typename Operation::Args* args,
                     size_t* bytes) noexcept {
  return guard(Operation::name, [&] {
    Checker check(Operation::name, /*needs_data=*/false);
    check.expect(context, "context: expected a context, got NULL");
    check.expect(bytes, "bytes: expected a pointer, got NULL");
    const auto params = Operation::check(check, read_struct(args, Operation::name, "args"));
    Workspace counting;
    Operation::plan(params, *context, counting);
    *bytes = counting.bytes();
  });
}

template <class Operation>
hax_status call(const hax_context* context, const typename Operation::Args* args, void* memory,
                size_t memory_size, void* stream) noexcept {
  const NvtxRange range(Operation::name);
  return guard(Operation::name, [&] {
    Checker check(Operation::name, /*needs_data=*/true);
    check.expect(context, "context: expected a context, got NULL");
    const auto params = Operation::check(check, read_struct(args, Operation::name, "args"));
    check.expect(!stream || !check.on_cpu(),
                 "stream: expected NULL with CPU tensors, got a stream");

    Workspace counting;
    Operation::plan(params, *context, counting);
    const size_t needed = counting.bytes();
    if (needed > 0) {
      if (!memory || memory_size < needed) {
        check.fail_with(HAX_ERROR_WORKSPACE_TOO_SMALL, "workspace: expected ", needed,
                        " bytes, got ", memory ? "" : "NULL and ", memory_size);
      }
      const uintptr_t alignment = check.on_cpu() ? 64 : Workspace::kAlignment;
      if (reinterpret_cast<uintptr_t>(memory) % alignment != 0) {
        check.fail_with(HAX_ERROR_WORKSPACE_TOO_SMALL, "workspace: expected an address aligned to ",
                        alignment, " bytes, got one that isn't");
      }
    }
    Workspace bound(memory);
    const auto plan = Operation::plan(params, *context, bound);
    Operation::run(params, plan, *context, stream);
  });
}

}  // namespace hax::capi
