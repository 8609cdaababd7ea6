// The second half of RME with its feed-forward (entry.cuh).
#include "cuda/engine/ffn.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(mix_ffn, FfnParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         ffn_kernel<SM_PRECISION, SM_WIDTH, true>)
