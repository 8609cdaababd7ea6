// The table of the kernels that one engine uses.
#pragma once

#include "cuda/engine/params.h"
#include "cuda/launch.h"

namespace seemore {
namespace cuda {

struct Kernels {
  Kernel<HeadParams> head;
  Kernel<RmeParams> rme;
  Kernel<FfnParams> mix_ffn, ffn;
  Kernel<SmeParams> sme11;  // kernel 11, all channels at once
  Kernel<SmeParams> sme;    // any kernel, 8 channels at once
  Kernel<ConvParams> conv;
  Kernel<UpsampleParams> upsample;
  // Any width; all but head and filter_low are for wide networks alone.
  Kernel<FilterParams> filter_low;  // float32 -> float32: levels of aggregation
  Kernel<FilterParams> filter, filter_to_float;
  Kernel<NormaliseParams> normalise;
  Kernel<ProductParams> product;
  Kernel<LogitsParams> logits;
  Kernel<WideMixParams> route, project_low, expert_products;
  Kernel<UpsampleParams> upsample_wide;
};

// Fills in the part of the table that one .cu file has, for a width of kWidths; add_wide the part for any
// width. Each file is compiled once per precision.
#define SM_DECLARE_KERNELS(precision)             \
  namespace precision##_kernels {                 \
    void add_ends(Kernels & table, int width);    \
    void add_rme(Kernels & table, int width);     \
    void add_mix_ffn(Kernels & table, int width); \
    void add_ffn(Kernels & table, int width);     \
    void add_sme(Kernels & table, int width);     \
    void add_wide(Kernels & table);               \
  }
SM_DECLARE_KERNELS(Fp32)
SM_DECLARE_KERNELS(Tf32)
SM_DECLARE_KERNELS(Fp16)
SM_DECLARE_KERNELS(Bf16)
#undef SM_DECLARE_KERNELS

}  // namespace cuda
}  // namespace seemore
