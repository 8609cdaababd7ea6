// The kernels that one network runs on, and the programs that they come from.
#pragma once

#include <vector>

#include "cuda/engine/pack.h"
#include "cuda/engine/params.h"
#include "cuda/launch.h"
#include "seemore_cuda.h"

namespace seemore {
namespace cuda {

struct Kernels {
  Kernel<HeadParams> head;          // any network
  Kernel<HeadParams> head_product;  // few input channels
  Kernel<RmeParams> rme;
  Kernel<CoarseParams> coarse;
  Kernel<FfnParams> mix_ffn, ffn;
  Kernel<SmeParams> sme11, sme11_tall, sme11_broad;  // kernel 11: sme11.cu
  Kernel<SmeParams> sme;                             // any kernel, 8 channels at once
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

// sme_rounds: whether a narrow network's stripes run 8 channels at once (Plan).
std::vector<Program> programs_of(const Network& net, sm_cuda_precision precision, bool sme_rounds);

// Those of programs that are loaded. Returns nullptr or what failed.
const char* find_kernels(int device, const Network& net, sm_cuda_precision precision, bool sme_rounds,
                         Kernels* kernels);

}  // namespace cuda
}  // namespace seemore
