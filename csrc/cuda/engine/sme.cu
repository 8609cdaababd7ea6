// SME's striped attention with any stripes, 8 channels at once (entry.cuh).
#include "cuda/engine/sme_lines.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(sme, SmeParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         sme_lines_kernel<SM_PRECISION, SM_WIDTH, 1, 0>)
