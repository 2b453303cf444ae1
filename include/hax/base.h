/* hax: status codes, error text and versions. Pure C11; no CUDA header is needed to use hax. */
#ifndef HAX_BASE_H_
#define HAX_BASE_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define HAX_API
#else
#define HAX_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
#define HAX_BEGIN_DECLS extern "C" {
#define HAX_END_DECLS }
#define HAX_NOEXCEPT noexcept
#else
#define HAX_BEGIN_DECLS
#define HAX_END_DECLS
#define HAX_NOEXCEPT
#endif

#define HAX_VERSION_MAJOR 0
#define HAX_VERSION_MINOR 1
#define HAX_VERSION_PATCH 0
/* Version of these headers as one number: 10000 * major + 100 * minor + patch. */
#define HAX_VERSION (10000 * HAX_VERSION_MAJOR + 100 * HAX_VERSION_MINOR + HAX_VERSION_PATCH)

HAX_BEGIN_DECLS

/* What every fallible function returns. 0 is success; numbers never change their meaning. */
typedef enum hax_status {
  HAX_SUCCESS = 0,
  /* A null pointer, a shape, stride, index or number that contradicts the documentation. */
  HAX_ERROR_INVALID_ARGUMENT = 1,
  /* A sound request that this build or backend has no code for (an element type, a size). */
  HAX_ERROR_UNSUPPORTED = 2,
  /* The workspace is absent, misaligned or smaller than the _workspace function said. */
  HAX_ERROR_WORKSPACE_TOO_SMALL = 3,
  /* Memory for a context could not be had. Operators never allocate. */
  HAX_ERROR_OUT_OF_MEMORY = 4,
  /* The CUDA runtime or driver refused a launch or is absent. */
  HAX_ERROR_CUDA = 5,
  /* A defect of hax itself. */
  HAX_ERROR_INTERNAL = 6
} hax_status;

/* Name of a status ("HAX_ERROR_UNSUPPORTED"); "unknown hax_status" for other numbers. Never NULL. */
HAX_API const char* hax_status_name(hax_status status) HAX_NOEXCEPT;

/* One sentence on what a status means in general. Never NULL. */
HAX_API const char* hax_status_description(hax_status status) HAX_NOEXCEPT;

/* What went wrong in this thread's latest failed call: the function, the argument, what was expected
 * and what came. Valid until the thread's next failing call; "" if none has failed. Never NULL. */
HAX_API const char* hax_last_error(void) HAX_NOEXCEPT;

/* Version of the loaded library, as HAX_VERSION. */
HAX_API int hax_version(void) HAX_NOEXCEPT;

/* The same as text, "0.1.0". Never NULL. */
HAX_API const char* hax_version_string(void) HAX_NOEXCEPT;

/* Whether the loaded library was built with its CUDA backend (1) or for the CPU alone (0). */
HAX_API int hax_has_cuda(void) HAX_NOEXCEPT;

HAX_END_DECLS

#endif /* HAX_BASE_H_ */
