// The first half of RME (entry.cuh).
#include "cuda/engine/rme.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(rme, RmeParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         rme_kernel<SM_PRECISION, SM_WIDTH>)
