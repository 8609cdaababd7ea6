// A kernel with parameters of a type of its own.
#pragma once

#include "cuda/runtime.h"

namespace seemore {
namespace cuda {

template <class Params>
struct Kernel {
  Function function = nullptr;

  // Returns nullptr or what failed.
  const char* start(const Params& params, Grid grid, size_t shared_bytes, void* stream) const {
    return launch(function, &params, sizeof params, grid, shared_bytes, stream);
  }
};

}  // namespace cuda
}  // namespace seemore
