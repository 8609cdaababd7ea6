// SME's striped attention with stripes of 11 (entry.cuh).
#include "cuda/engine/sme.cuh"
#include "cuda/engine/sme_lines.cuh"
#include "cuda/engine/specialise.cuh"

namespace seemore {
namespace cuda {

template <class P>
constexpr bool kHasBands = has_bands(11, sizeof(typename P::Element));

template <class P, int NT>
SM_DEVICE void sme11_kernel(const SmeParams& p) {
  if constexpr (kHasBands<P>)
    sme_kernel<P, NT, kBandRows, 16>(p);
  else
    sme_lines_kernel<P, NT, NT, 11>(p);
}

// With blocks of twice the threads.
template <class P, int NT>
SM_DEVICE void sme11_tall_kernel(const SmeParams& p) {
  if constexpr (kIsSlim<P, NT>) sme_kernel<P, NT, 2 * kBandRows, 16>(p);
}

// And with more planes at a time, which no block of a GeForce card has room for (99 KB): plan.cc never asks
// for it there, and NVRTC's code would spill.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ == 1200)
constexpr bool kHasRoom = false;
#else
constexpr bool kHasRoom = true;
#endif
template <class P, int NT>
constexpr int kPlanesAtOnce = planes_at_once(NT);
template <class P, int NT>
SM_DEVICE void sme11_broad_kernel(const SmeParams& p) {
  if constexpr (kHasRoom && kIsSlim<P, NT>) sme_kernel<P, NT, 2 * kBandRows, kPlanesAtOnce<P, NT>>(p);
}

}  // namespace cuda
}  // namespace seemore

SM_ENTRY(sme11, SmeParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         sme11_kernel<SM_PRECISION, SM_WIDTH>)
SM_ENTRY(sme11_tall, SmeParams, (2 * kThreads, 1), sme11_tall_kernel<SM_PRECISION, SM_WIDTH>)
SM_ENTRY(sme11_broad, SmeParams, (2 * kThreads, 1), sme11_broad_kernel<SM_PRECISION, SM_WIDTH>)
