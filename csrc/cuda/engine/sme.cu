// SME's striped attention with any stripes, 8 channels at once (entry.cuh).
#include "cuda/engine/sme.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(sme, SmeParams, (kThreads, kBlocksOfSme<SM_PRECISION, SM_WIDTH>),
         sme_kernel<SM_PRECISION, SM_WIDTH, 1, 0>)
