// Compiles the first half of RME (instantiate.cuh).
#include "cuda/engine/instantiate.cuh"
#include "cuda/engine/rme.cuh"

void seemore::cuda::SM_KERNELS::add_rme(Kernels& table, int width) {
  for_width(width, [&](auto w) {
    constexpr int NT = decltype(w)::value;
    table.rme = kernel_of<RmeParams, rme_kernel<SM_PRECISION, NT>>();
  });
}
