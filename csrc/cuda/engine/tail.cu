// The tail (entry.cuh).
#include "cuda/engine/specialise.cuh"
#include "cuda/engine/tail.cuh"

SM_ENTRY(conv, ConvParams, (kMostThreads<SM_PRECISION, SM_WIDTH>, 1), conv_kernel<SM_PRECISION, SM_WIDTH>)
SM_ENTRY(upsample, UpsampleParams, (kMostThreads<SM_PRECISION, SM_WIDTH>, 1),
         upsample_kernel<SM_PRECISION, SM_WIDTH, 0, 2>)
SM_ENTRY(upsample2, UpsampleParams, (kMostThreads<SM_PRECISION, SM_WIDTH>, 1),
         upsample_kernel<SM_PRECISION, SM_WIDTH, 2, 2>)
SM_ENTRY(upsample4, UpsampleParams, (kMostThreads<SM_PRECISION, SM_WIDTH>, 1),
         upsample_kernel<SM_PRECISION, SM_WIDTH, 4, 6>)
