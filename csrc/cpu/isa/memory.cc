// Aligned memory from the platform.
#include "cpu/isa/memory.h"

#include <cstdlib>

namespace {

constexpr size_t kLine = 64;

}  // namespace

#if defined(_WIN32)

#include <malloc.h>

void* seemore::allocate(size_t bytes) { return _aligned_malloc(bytes ? bytes : 1, kLine); }
void seemore::release(void* memory) { _aligned_free(memory); }

#else

void* seemore::allocate(size_t bytes) { return std::aligned_alloc(kLine, (bytes / kLine + 1) * kLine); }
void seemore::release(void* memory) { std::free(memory); }

#endif
