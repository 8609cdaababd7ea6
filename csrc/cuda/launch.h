// Starting kernels, on a GPU or in cudasim, and the table of those that one engine uses.
#pragma once

#include <cstddef>

#include "cuda/params.h"

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

struct Kernels {
  Kernel<HeadParams> head;
  Kernel<RmeParams> rme;
  Kernel<FfnParams> mix_ffn, ffn;
  Kernel<SmeParams> sme11;  // kernel 11, all channels at once
  Kernel<SmeParams> sme;    // any kernel, 8 channels at once
  Kernel<ConvParams> conv;
  Kernel<UpsampleParams> upsample;
  // Any width; all but head and filter_low are for wide networks alone.
  Kernel<FilterParams> filter_low;  // float32 -> float32: levels of aggregation
  Kernel<FilterParams> filter, filter_to_float;
  Kernel<NormaliseParams> normalise;
  Kernel<ProductParams> product;
  Kernel<LogitsParams> logits;
  Kernel<WideMixParams> route, project_low, expert_products;
  Kernel<UpsampleParams> upsample_wide;
};

// Fills in the part of the table that one .cu file has, for a width of kWidths; add_wide the part for any
// width. Each file is compiled once per precision.
#define SM_DECLARE_KERNELS(precision)             \
  namespace precision##_kernels {                 \
    void add_ends(Kernels & table, int width);    \
    void add_rme(Kernels & table, int width);     \
    void add_mix_ffn(Kernels & table, int width); \
    void add_ffn(Kernels & table, int width);     \
    void add_sme(Kernels & table, int width);     \
    void add_wide(Kernels & table);               \
  }
SM_DECLARE_KERNELS(Fp32)
SM_DECLARE_KERNELS(Tf32)
SM_DECLARE_KERNELS(Fp16)
SM_DECLARE_KERNELS(Bf16)
#undef SM_DECLARE_KERNELS

}  // namespace cuda
}  // namespace seemore
