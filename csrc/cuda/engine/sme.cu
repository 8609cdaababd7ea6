// Compiles SME's striped attention (instantiate.cuh).
#include "cuda/engine/instantiate.cuh"
#include "cuda/engine/sme.cuh"

void seemore::cuda::SM_KERNELS::add_sme(Kernels& table, int width) {
  for_width(width, [&](auto w) {
    constexpr int NT = decltype(w)::value;
    table.sme11 = kernel_of<SmeParams, sme_kernel<SM_PRECISION, NT, NT, 11>>();
    table.sme = kernel_of<SmeParams, sme_kernel<SM_PRECISION, NT, 1, 0>>();
  });
}
