// The second half of RME with its feed-forward, and what comes before it once for an image (entry.cuh).
#include "cuda/engine/coarse.cuh"
#include "cuda/engine/ffn.cuh"
#include "cuda/engine/specialise.cuh"

// One block to a multiprocessor, for else ptxas saves registers and spills.
SM_ENTRY(coarse, CoarseParams, (kThreads, 1), coarse_kernel<SM_PRECISION, SM_WIDTH>)
SM_ENTRY(mix_ffn, FfnParams, (kMostThreads<SM_PRECISION, SM_WIDTH>, 1),
         ffn_kernel<SM_PRECISION, SM_WIDTH, true>)
