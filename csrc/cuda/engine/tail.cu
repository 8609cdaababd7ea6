// The tail (entry.cuh).
#include "cuda/engine/specialise.cuh"
#include "cuda/engine/tail.cuh"

SM_ENTRY(conv, ConvParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         conv_kernel<SM_PRECISION, SM_WIDTH>)

// Two blocks to a multiprocessor: for more ptxas would spill (float32 and TF32).
SM_ENTRY(upsample, UpsampleParams, (kThreads, 2), upsample_kernel<SM_PRECISION, SM_WIDTH>)
