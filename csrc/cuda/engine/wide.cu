// The kernels that take any number of channels (entry.cuh). Where they ask for 2 or 6 blocks to a
// multiprocessor, ptxas would spill on one kind of GPU or other for more of them.
#include "cuda/engine/specialise.cuh"
#include "cuda/engine/wide.cuh"

SM_ENTRY(filter_low, FilterParams, (kThreads), filter_kernel<Fp32, Fp32>)
SM_ENTRY(filter, FilterParams, (kThreads, 6), filter_kernel<SM_PRECISION, SM_PRECISION>)
SM_ENTRY(filter_to_float, FilterParams, (kThreads, 6), filter_kernel<SM_PRECISION, Fp32>)
SM_ENTRY(normalise, NormaliseParams, (kThreads), normalise_kernel<SM_PRECISION>)
SM_ENTRY(product, ProductParams, (kThreads, 2), product_kernel<SM_PRECISION>)
SM_ENTRY(logits, LogitsParams, (kThreads, 2), logits_kernel<SM_PRECISION>)
SM_ENTRY(route, WideMixParams, (kThreads), route_images_kernel<SM_PRECISION>)
SM_ENTRY(project_low, WideMixParams, (kThreads), project_low_kernel<SM_PRECISION>)
SM_ENTRY(expert_products, WideMixParams, (kThreads), expert_products_kernel<SM_PRECISION>)
SM_ENTRY(upsample_wide, UpsampleParams, (kThreads, 2), upsample_wide_kernel<SM_PRECISION>)
