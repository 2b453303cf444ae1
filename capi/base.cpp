#include "hax/base.h"

extern "C" {

const char* hax_status_name(hax_status status) noexcept {
  switch (status) {
    case HAX_SUCCESS: return "HAX_SUCCESS";
    case HAX_ERROR_INVALID_ARGUMENT: return "HAX_ERROR_INVALID_ARGUMENT";
    case HAX_ERROR_UNSUPPORTED: return "HAX_ERROR_UNSUPPORTED";
    case HAX_ERROR_WORKSPACE_TOO_SMALL: return "HAX_ERROR_WORKSPACE_TOO_SMALL";
    case HAX_ERROR_OUT_OF_MEMORY: return "HAX_ERROR_OUT_OF_MEMORY";
    case HAX_ERROR_CUDA: return "HAX_ERROR_CUDA";
    case HAX_ERROR_INTERNAL: return "HAX_ERROR_INTERNAL";
  }
  return "unknown hax_status";
}

const char* hax_status_description(hax_status status) noexcept {
  switch (status) {
    case HAX_SUCCESS: return "The call succeeded.";
    case HAX_ERROR_INVALID_ARGUMENT: return "An argument contradicts the function's documentation.";
    case HAX_ERROR_UNSUPPORTED: return "This build or backend has no code for the request.";
    case HAX_ERROR_WORKSPACE_TOO_SMALL: return "The workspace is absent, misaligned or too small.";
    case HAX_ERROR_OUT_OF_MEMORY: return "Memory could not be allocated.";
    case HAX_ERROR_CUDA: return "The CUDA runtime or driver reported an error.";
    case HAX_ERROR_INTERNAL: return "A defect of hax itself.";
  }
  return "The number is no hax_status.";
}

int hax_version(void) noexcept { return HAX_VERSION; }

#define HAX_TEXT_(x) #x
#define HAX_TEXT(x) HAX_TEXT_(x)
const char* hax_version_string(void) noexcept {
  return HAX_TEXT(HAX_VERSION_MAJOR) "." HAX_TEXT(HAX_VERSION_MINOR) "." HAX_TEXT(
      HAX_VERSION_PATCH);
}

int hax_has_cuda(void) noexcept {
#ifdef HAX_WITH_CUDA
  return 1;
#else
  return 0;
#endif
}

}  // extern "C"
