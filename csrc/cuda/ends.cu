// Compiles head, tail and the further levels of aggregation (instantiate.cuh).
#include "cuda/head.cuh"
#include "cuda/instantiate.cuh"
#include "cuda/tail.cuh"

void seemore::cuda::SM_KERNELS::add_ends(Kernels& table, int width) {
  for_width(width, [&](auto w) {
    constexpr int NT = decltype(w)::value;
    table.head = kernel_of<HeadParams, head_kernel<SM_PRECISION, NT>>();
    table.aggregate = kernel_of<AggregateParams, aggregate_kernel<NT>>();
    table.conv = kernel_of<ConvParams, conv_kernel<SM_PRECISION, NT>>();
    table.upsample = kernel_of<UpsampleParams, upsample_kernel<SM_PRECISION, NT>>();
  });
}
