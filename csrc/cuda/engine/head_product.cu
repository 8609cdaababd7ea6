// The head of a few channels as a product (entry.cuh).
#include "cuda/engine/head_product.cuh"
#include "cuda/engine/specialise.cuh"

SM_ENTRY(head_product, HeadParams, (kThreads, kBlocksOfHead<SM_PRECISION, SM_WIDTH>),
         head_product_kernel<SM_PRECISION, SM_WIDTH>)
