// Compiles the second half of RME with its feed-forward (instantiate.cuh).
#include "cuda/engine/ffn.cuh"
#include "cuda/engine/instantiate.cuh"

void seemore::cuda::SM_KERNELS::add_mix_ffn(Kernels& table, int width) {
  for_width(width, [&](auto w) {
    constexpr int NT = decltype(w)::value;
    table.mix_ffn = kernel_of<FfnParams, ffn_kernel<SM_PRECISION, NT, true>>();
  });
}
