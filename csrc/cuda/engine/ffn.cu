// The feed-forward after SME (entry.cuh).
#include "cuda/engine/ffn.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(ffn, FfnParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         ffn_kernel<SM_PRECISION, SM_WIDTH, false>)
