// For the .cu files: compiles a piece of the kernel table for every width, in the precision SM_PRECISION.
#pragma once

#include "cuda/engine/kernels.h"
#include "cuda/numeric.cuh"

#define SM_JOIN_(a, b) a##b
#define SM_JOIN(a, b) SM_JOIN_(a, b)
#define SM_KERNELS SM_JOIN(SM_PRECISION, _kernels)

namespace seemore {
namespace cuda {

// call(std::integral_constant of the width); widths are those of kWidths.
template <int N>
struct Width {
  static constexpr int value = N;
};

template <class Call>
void for_width(int width, Call call) {
  switch (width) {
    case 5:
      return call(Width<5>{});
    case 6:
      return call(Width<6>{});
#ifndef SM_FEW_WIDTHS
    case 8:
      return call(Width<8>{});
#endif
  }
}

}  // namespace cuda
}  // namespace seemore
