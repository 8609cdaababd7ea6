// The GPU that cudasim pretends to be, for tests of how the engine adapts to its figures.
#pragma once

#include "cuda/runtime.h"

namespace cudasim {

void pretend(const seemore::cuda::DeviceInfo& device);

}  // namespace cudasim
