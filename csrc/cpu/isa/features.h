// What this CPU can run, and the operating system lets it.
#pragma once

#include <stddef.h>

namespace seemore {

// Levels of x86-64, each with those before it; v4bf16 is v4 with AVX512-BF16.
enum class X86Level { kNone, kV2, kV3, kV4, kV4Bf16 };

// kNone on other processors.
X86Level x86_level();

// ARM64's BFMMLA and BFDOT (FEAT_BF16).
bool arm_has_bf16();

// Bytes of L2 and L3 cache for each core: its share where several have one together.  0: unknown.
size_t cache_of_a_core();

}  // namespace seemore
