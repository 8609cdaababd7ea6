// What the tests have set, for both ways of running kernels.
#pragma once

#include <cstdint>

#include "cudasim/memory.h"

namespace cudasim {

uint64_t order_seed();
bool checking();
GlobalMemory& global_memory();

}  // namespace cudasim
