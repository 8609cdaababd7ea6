/* The C API of seemore-fast's native library: plain structs, one entry point per operation.
 *
 * Every tensor is float32, contiguous, planar [N, C, H, W], in memory of the caller; outputs must not overlap
 * inputs.  Every entry point returns SM_OK, or a status after setting sm_last_error(); on an error nothing
 * was written.  All are safe to call from several threads.  Results are bitwise equal for any thread count.
 */
#ifndef SEEMORE_H
#define SEEMORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SM_API __attribute__((visibility("default")))

typedef enum sm_status {
  SM_OK = 0,
  SM_ERROR_ARGUMENT = 1,    /* a parameter out of range, named in the message */
  SM_ERROR_UNSUPPORTED = 2, /* this CPU, or this build, cannot do what was asked */
  SM_ERROR_MEMORY = 3,      /* scratch memory could not be allocated */
} sm_status;

/* What went wrong in this thread's last failing call; "" before the first. Valid until the next failure. */
SM_API const char* sm_last_error(void);

/* ---- Instruction sets ------------------------------------------------------------------------------------
 *
 * Kernels are compiled for "v2", "v3", "v4" (x86-64 levels) and "v4bf16" (v4 with AVX512-BF16), elsewhere as
 * "portable".  The best that CPU and operating system support is taken, unless the environment variable
 * SEEMORE_ISA names another.
 */

/* Name of the instruction set in use. NULL (and sm_last_error) if SEEMORE_ISA names none that works here. */
SM_API const char* sm_isa(void);

/* Name of the i-th usable instruction set, from the oldest to the newest; NULL past the last. */
SM_API const char* sm_usable_isa(int i);

/* From now on use the named one, in the whole process; NULL: choose again as at the start. For tests. */
SM_API sm_status sm_set_isa(const char* name);

#ifdef __cplusplus
}
#endif
#endif /* SEEMORE_H */
