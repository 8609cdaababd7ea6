// Scratch memory of kernels, aligned to a cache line.  Declarations only: per-ISA files include this.
#pragma once

#include <stddef.h>

namespace seemore {

void* allocate(size_t bytes);  // uninitialised; null where there is none
void release(void* memory);

}  // namespace seemore
