// The language that kernels are written in: CUDA C++, or cudasim's form of it for g++.
//
// Kernels keep to it so that both can run them: they are entries (entry.cuh), take dynamic shared
// memory through SM_DYNAMIC_SHARED, PTX through ptx.cuh, shuffles with the full mask, and assume no lockstep.
#pragma once

#include "cuda/common.h"

#ifdef SEEMORE_CUDASIM
#include "cudasim/cuda_on_host.h"
#define SM_UNROLL  // g++ takes twice as long to compile what is unrolled
#define SM_NO_UNROLL
#else
#define SM_UNROLL _Pragma("unroll")
#define SM_NO_UNROLL _Pragma("unroll 1")
#define SM_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

#define SM_DEVICE __device__ __forceinline__

namespace seemore {
namespace cuda {

constexpr unsigned kFullMask = 0xffffffffu;

}  // namespace cuda
}  // namespace seemore
