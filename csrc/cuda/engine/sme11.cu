// SME's striped attention with stripes of 11, all channels at once (entry.cuh).
#include "cuda/engine/sme.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(sme11, SmeParams, (kThreads, kBlocksOfSme<SM_PRECISION, SM_WIDTH>),
         sme_kernel<SM_PRECISION, SM_WIDTH, SM_WIDTH, 11>)
