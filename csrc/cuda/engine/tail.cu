// The tail (entry.cuh).
#include "cuda/engine/specialise.cuh"
#include "cuda/engine/tail.cuh"

SM_ENTRY(conv, ConvParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         conv_kernel<SM_PRECISION, SM_WIDTH>)
SM_ENTRY(upsample, UpsampleParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         upsample_kernel<SM_PRECISION, SM_WIDTH, 0, 2>)
SM_ENTRY(upsample2, UpsampleParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         upsample_kernel<SM_PRECISION, SM_WIDTH, 2, 2>)
SM_ENTRY(upsample4, UpsampleParams, (kThreads, kBlocksOfDense<SM_PRECISION, SM_WIDTH>),
         upsample_kernel<SM_PRECISION, SM_WIDTH, 4, 6>)
