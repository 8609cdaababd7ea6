// The feed-forward after SME (entry.cuh).
#include "cuda/engine/ffn.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(ffn, FfnParams, (kMostThreads<SM_PRECISION, SM_WIDTH>, 1), ffn_kernel<SM_PRECISION, SM_WIDTH, false>)
