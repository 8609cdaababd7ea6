// Compiles the feed-forward after SME (instantiate.cuh).
#include "cuda/engine/ffn.cuh"
#include "cuda/engine/instantiate.cuh"

void seemore::cuda::SM_KERNELS::add_ffn(Kernels& table, int width) {
  for_width(width, [&](auto w) {
    constexpr int NT = decltype(w)::value;
    table.ffn = kernel_of<FfnParams, ffn_kernel<SM_PRECISION, NT, false>>();
  });
}
