// Compiles the kernels that take any number of channels (instantiate.cuh).
#include "cuda/engine/instantiate.cuh"
#include "cuda/engine/wide.cuh"

void seemore::cuda::SM_KERNELS::add_wide(Kernels& table) {
  using P = SM_PRECISION;
  table.filter_low = kernel_of<FilterParams, filter_kernel<Fp32, Fp32>>();
  table.filter = kernel_of<FilterParams, filter_kernel<P, P>>();
  table.filter_to_float = kernel_of<FilterParams, filter_kernel<P, Fp32>>();
  table.normalise = kernel_of<NormaliseParams, normalise_kernel<P>>();
  table.product = kernel_of<ProductParams, product_kernel<P>>();
  table.logits = kernel_of<LogitsParams, logits_kernel<P>>();
  table.route = kernel_of<WideMixParams, route_images_kernel<P>>();
  table.project_low = kernel_of<WideMixParams, project_low_kernel<P>>();
  table.expert_products = kernel_of<WideMixParams, expert_products_kernel<P>>();
  table.upsample_wide = kernel_of<UpsampleParams, upsample_wide_kernel<P>>();
}
