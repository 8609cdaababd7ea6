// Compiles head and tail (instantiate.cuh).
#include "cuda/engine/head.cuh"
#include "cuda/engine/instantiate.cuh"
#include "cuda/engine/tail.cuh"

void seemore::cuda::SM_KERNELS::add_ends(Kernels& table, int width) {
  table.head = kernel_of<HeadParams, head_kernel<SM_PRECISION>>();
  for_width(width, [&](auto w) {
    constexpr int NT = decltype(w)::value;
    table.conv = kernel_of<ConvParams, conv_kernel<SM_PRECISION, NT>>();
    table.upsample = kernel_of<UpsampleParams, upsample_kernel<SM_PRECISION, NT>>();
  });
}
