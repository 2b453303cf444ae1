/* hax: the context, immutable settings that calls share. */
#ifndef HAX_CONTEXT_H_
#define HAX_CONTEXT_H_

#include "hax/base.h"

HAX_BEGIN_DECLS

/* Opaque. Immutable once made: one context serves any number of threads and devices at once. */
typedef struct hax_context hax_context;

typedef struct hax_context_options {
  size_t struct_size; /* sizeof(hax_context_options) */
  /* Threads the CPU backend uses for one call; 0: as many as the OpenMP runtime gives. The numbers
   * computed don't depend on it. */
  int32_t num_threads;
  /* Best instruction set the CPU backend may use: "x86-64", "x86-64-v3" or "x86-64-v4"; NULL: the best
   * that the library was built with and the machine has. */
  const char* cpu_level;
} hax_context_options;

/* Makes a context. options: NULL for the defaults. context: receives it, not NULL.
 * Errors: INVALID_ARGUMENT (context NULL, num_threads < 0, struct_size),
 * UNSUPPORTED (a cpu_level that was not built or that the machine lacks), OUT_OF_MEMORY. */
HAX_API hax_status hax_context_create(const hax_context_options* options,
                                      hax_context** context) HAX_NOEXCEPT;

/* Frees a context that no call is using any more. NULL is allowed. */
HAX_API void hax_context_destroy(hax_context* context) HAX_NOEXCEPT;

/* Conventions of every operator call below include/hax/.
 *
 * - An args struct starts with struct_size = sizeof(the struct), and its remaining fields are best
 *   zero-initialised: structs grow at their end only, and zero means the behaviour before the growth.
 * - hax_X_workspace(context, args, &bytes) answers how much scratch memory hax_X will need. It reads
 *   shapes, types, devices and flags but no element and no data pointer, so it may run before
 *   anything is allocated. It fails exactly where hax_X would reject the shapes or types: it is also
 *   the question "is this supported?".
 * - hax_X(context, args, workspace, workspace_size, stream): workspace is memory on the tensors'
 *   device, aligned to 256 bytes on CUDA and to 64 on the CPU, or NULL where 0 bytes were asked. Its
 *   content is undefined before and after. stream: a cudaStream_t for CUDA tensors (NULL: the default
 *   stream); must be NULL for CPU tensors, whose call returns when the result is complete.
 * - Nothing is allocated and no device is synchronised by an operator call.
 * - Outputs are overwritten, never accumulated into. An output passed as NULL is not computed.
 * - Axes: B sequences, L tokens, D channels, N state size, H heads, P head width, G groups. Every
 *   tensor may have any strides; the last axis contiguous is the fast path. B, L, D, ... may be 0.
 * - Packed sequences: with cu_seqlens (int32 or int64, shape (S + 1), on the tensors' device,
 *   nondecreasing from 0 to L) the batch axis must be 1, and token t belongs to sequence s where
 *   cu_seqlens[s] <= t < cu_seqlens[s + 1]. Per-sequence tensors (states) then have S in place of B.
 *   On the CPU its content is checked; on CUDA it is the caller's duty.
 * - max_seqlen, where a call has it, promises that no sequence in cu_seqlens is longer, so that work which only longer
 *   ones need is left out; 0 promises nothing. It changes no result. Like cu_seqlens it is checked on the CPU and the
 *   caller's duty on CUDA, where sequences longer than promised may get no results.
 * - Activations are fp32, fp16 or bf16, one type T for all activations of a call. Sums are kept in
 *   fp32 at least.
 */

HAX_END_DECLS

#endif /* HAX_CONTEXT_H_ */
