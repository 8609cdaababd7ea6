// The first half of RME (entry.cuh).
#include "cuda/engine/rme.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(rme, RmeParams, (kMostThreads<SM_PRECISION, SM_WIDTH>, 1), rme_kernel<SM_PRECISION, SM_WIDTH>)
