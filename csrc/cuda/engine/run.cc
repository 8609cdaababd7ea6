// A forward's launches: both ends, and the groups of narrow networks.
#include "cuda/engine/run.h"

#include <algorithm>

#include "cuda/runtime.h"

namespace seemore {
namespace cuda {

void Run::head() {
  HeadParams p = net.head;
  p.at = plan.ends.at;
  p.in = params.input;
  p.type = pixels();
  p.out = at(plan.skip);
  if (p.product)
    start(kernels.head_product, p, (unsigned)p.at.count,
          head_bytes(p.at.tile_h, p.at.tile_w, p.in_chans, plan.pixel_bytes));
  else
    start(kernels.head, p, blocks_for((size_t)params.h * params.w * net.width), 0);
}

void Run::aggregate(const Depthwise& conv, int level) {
  FilterParams p = {};
  p.in = floats(plan.low[level - 1]);
  p.out = floats(plan.low[level]);
  p.in_h = plan.low_h[level - 1];
  p.in_w = plan.low_w[level - 1];
  p.out_h = plan.low_h[level];
  p.out_w = plan.low_w[level];
  p.channels = channels();
  p.rows = p.columns = p.stride = 4;
  p.gelu = true;
  p.conv = conv;
  start(kernels.filter_low, p, blocks_for((size_t)p.out_h * p.out_w * p.channels / 2), 0);
}

void Run::group(const Network::Group& g, void* in, void* even, void* odd) {
  RmeParams rme = g.rme;
  rme.at = plan.rme.at;
  rme.in = in;
  rme.yp = odd;
  rme.b = at(plan.b);
  rme.c = at(plan.c);
  rme.low = floats(plan.low[0]);
  rme.partial = floats(plan.partial);
  rme.low_h = plan.low_h[0];
  rme.low_w = plan.low_w[0];
  start(kernels.rme, rme, (unsigned)plan.blocks, plan.rme.shared);

  const int last = net.recursive - 1;
  for (int level = 1; level < last; ++level) aggregate(rme.aggregate, level);

  CoarseParams coarse = {plan.mix_ffn.at, g.rme_ffn.mix};
  MixParams& mix = coarse.mix;
  const int stored = std::max(0, last - 1);  // the last level but one, where there are two
  mix.b = rme.b;
  mix.c = rme.c;
  mix.partial = rme.partial;
  mix.low = floats(plan.low[stored]);
  mix.low_h = plan.low_h[stored];
  mix.low_w = plan.low_w[stored];
  mix.aggregate_again = stored < last;
  mix.map_h = plan.low_h[last];
  mix.map_w = plan.low_w[last];
  mix.most_columns = plan.most_columns;
  mix.blocks = plan.blocks;
  mix.map = at(plan.map);
  mix.weight = floats(plan.weight);
  mix.bias = floats(plan.bias);
  const int across = (mix.map_w + kCoarseColumns - 1) / kCoarseColumns;
  start(kernels.coarse, coarse, (unsigned)(mix.map_h * across), coarse_bytes(net.width, mix.experts));

  FfnParams first = g.rme_ffn;
  first.at = plan.mix_ffn.at;
  first.in = odd;
  first.out = even;
  first.mix = mix;
  start(kernels.mix_ffn, first, plan.mix_ffn);

  SmeParams sme = g.sme;
  sme.at = plan.sme.at;
  sme.in = even;
  sme.out = odd;
  start(plan.sme_rounds ? kernels.sme : kernels.sme11, sme, plan.sme);

  FfnParams second = g.sme_ffn;
  second.at = plan.ffn.at;
  second.in = odd;
  second.out = even;
  start(kernels.ffn, second, plan.ffn);
}

void Run::tail(const void* in, void* between) {
  ConvParams conv = net.conv;
  conv.at = plan.ends.at;
  conv.in = in;
  conv.skip = at(plan.skip);
  conv.out = between;
  start(kernels.conv, conv, plan.ends);
  UpsampleParams up = net.upsample;
  up.at = plan.ends.at;
  up.in = between;
  up.out = params.output;
  up.type = pixels();
  start(kernels.upsample, up, plan.ends);
}

// For cudasim: what the kernels may touch, the weights excepted.
static void declare_all(const Run& run) {
  const sm_cuda_forward_params& p = run.params;
  const size_t pixel = p.pixels == SM_CUDA_PIXELS_FP32 ? 4 : p.pixels == SM_CUDA_PIXELS_U8 ? 1 : 2;
  const size_t image = (size_t)p.n * run.net.in_chans * p.h * p.w * pixel;
  declare(p.input, image, "the input", false);
  declare(p.output, image * run.net.scale * run.net.scale, "the output", true);
  for (int i = 0; i < run.plan.count; ++i) {
    const Buffer& buffer = run.plan.buffers[i];
    declare(run.at(buffer.at), buffer.bytes, buffer.name, true);
  }
}

const char* run(const Network& net, const Kernels& kernels, const Plan& plan,
                const sm_cuda_forward_params& params) {
  Run run{net, kernels, plan, params};
  declare_all(run);
  run.head();
  void *in = run.at(plan.skip), *even = run.at(plan.stream[0]), *odd = run.at(plan.stream[1]);
  for (const Network::Group& g : net.groups) {
    if (net.wide)
      run.wide_group(g, in);
    else
      run.group(g, in, even, odd);
    in = even;
  }
  if (net.wide)
    run.wide_tail(in);
  else
    run.tail(in, odd);
  forget_declared();
  return run.error;
}

}  // namespace cuda
}  // namespace seemore
