// The head (entry.cuh).
#include "cuda/engine/head.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(head, HeadParams, (kThreads), head_kernel<SM_PRECISION>)
