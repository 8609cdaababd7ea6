// Starting kernels, on a GPU or in cudasim.
#pragma once

#include <cstddef>

#include "cuda/common.h"

#if defined(SEEMORE_CUDASIM) || defined(__CUDACC__)
#include "cuda/device.cuh"
#endif

namespace seemore {
namespace cuda {

struct Grid {
  unsigned x, y;
};

// A kernel of kThreads threads per block. Both functions return nullptr or what failed.
template <class Params>
struct Kernel {
  const char* (*prepare)(size_t shared_bytes);  // before the first start on a device
  const char* (*start)(const Params& params, Grid grid, size_t shared_bytes, void* stream);
};

#ifdef SEEMORE_CUDASIM

const char* start_on_host(const char* signature, void (*body)(void*), void* context, size_t context_bytes,
                          Grid grid, size_t shared_bytes);

template <auto kernel, class Params>
const char* start(const Params& params, Grid grid, size_t shared_bytes, void*) {
  Params copy = params;
  return start_on_host(
      __PRETTY_FUNCTION__, [](void* context) { kernel(*static_cast<const Params*>(context)); }, &copy,
      sizeof copy, grid, shared_bytes);
}

template <auto kernel, class Params>
const char* prepare(size_t) {
  return nullptr;
}

#elif defined(__CUDACC__)

const char* explain(cudaError_t error);  // nullptr for success

template <auto kernel, class Params>
const char* start(const Params& params, Grid grid, size_t shared_bytes, void* stream) {
  void* arguments[] = {const_cast<Params*>(&params)};
  return explain(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(grid.x, grid.y), dim3(kThreads),
                                  arguments, shared_bytes, static_cast<cudaStream_t>(stream)));
}

template <auto kernel, class Params>
const char* prepare(size_t shared_bytes) {
  return explain(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes));
}

#endif

#if defined(SEEMORE_CUDASIM) || defined(__CUDACC__)
template <class Params, void (*kernel)(const Params)>
Kernel<Params> kernel_of() {
  return {prepare<kernel, Params>, start<kernel, Params>};
}
#endif

}  // namespace cuda
}  // namespace seemore
