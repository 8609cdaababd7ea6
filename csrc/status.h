// How every entry point of the C API reports an error. Declarations only: per-ISA files include it.
#pragma once

#include "seemore.h"

namespace seemore {

// Sets sm_last_error() of this thread to the printf-formatted message; returns `status`.
__attribute__((format(printf, 2, 3))) sm_status fail(sm_status status, const char* format, ...);

}  // namespace seemore
