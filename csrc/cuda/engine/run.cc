// A forward's launches: both ends, and the groups of narrow networks.
#include "cuda/engine/run.h"

#include <algorithm>

#include "cuda/runtime.h"

namespace seemore {
namespace cuda {

void Run::head(void* to) {
  HeadParams p = net.head;
  p.at = plan.ends.at;
  p.in = params.input;
  p.type = pixels();
  p.out = to;
  p.pitch = head_pitch(p.at.tile_w);
  p.plane = head_plane(p.at.tile_h, p.at.tile_w);
  if (p.product)
    start(kernels.head_product, p, grid_of(p.at, kThreads),
          head_bytes(p.at.tile_h, p.at.tile_w, p.in_chans, plan.pixel_bytes));
  else
    start(kernels.head, p, blocks_for((size_t)params.h * params.w * net.width), 0);
}

void Run::aggregate(const Depthwise& conv, int level) {
  FilterParams p = {};
  p.in = memory.low[level - 1];
  p.out = memory.low[level];
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

void Run::before_pooling(const Network::Group& g, const void* in) {
  if (net.wide) return wide_before_pooling(g, in);
  RmeParams rme = g.rme;
  rme.at = plan.rme.at;
  rme.in = in;
  rme.yp = memory.stream[1];
  rme.b = memory.b;
  rme.c = memory.c;
  rme.low = memory.low[0];
  rme.partial = memory.partial;
  rme.low_h = rme.at.h / 4;
  rme.low_w = rme.at.w / 4;
  start(kernels.rme, rme, plan.rme);
}

MixParams Run::mix_of(const Network::Group& g) const {
  MixParams mix = g.rme_ffn.mix;
  const int last = net.recursive - 1, stored = std::max(0, last - 1);  // the last but one, if there are two
  mix.b = memory.b;
  mix.c = memory.c;
  mix.partial = memory.partial;
  mix.low = memory.low[stored];
  mix.low_h = plan.low_h[stored];
  mix.low_w = plan.low_w[stored];
  mix.aggregate_again = stored < last;
  mix.map_h = plan.low_h[last];
  mix.map_w = plan.low_w[last];
  mix.full_h = window.full_h;
  mix.full_w = window.full_w;
  mix.top = window.top;
  mix.left = window.left;
  mix.most_columns = plan.most_columns;
  mix.blocks = plan.blocks;
  mix.map = memory.map;
  mix.weight = memory.weight;
  mix.bias = memory.bias;
  return mix;
}

void Run::pooled(const Network::Group& g) {
  if (net.wide) return wide_pooled(g);
  for (int level = 1; level < net.recursive - 1; ++level) aggregate(g.rme_ffn.mix.aggregate, level);
  const CoarseParams coarse = {plan.mix_ffn.at, mix_of(g)};
  const int across = (coarse.mix.map_w + kCoarseColumns - 1) / kCoarseColumns;
  start(kernels.coarse, coarse, (unsigned)(coarse.mix.map_h * across),
        coarse_bytes(net.width, coarse.mix.experts));
}

void Run::after_pooling(const Network::Group& g) {
  if (net.wide) return wide_after_pooling(g);
  void *const even = memory.stream[0], *const odd = memory.stream[1];
  FfnParams first = g.rme_ffn;
  first.at = plan.mix_ffn.at;
  first.in = odd;
  first.out = even;
  first.mix = mix_of(g);
  start(kernels.mix_ffn, first, plan.mix_ffn);

  SmeParams sme = g.sme;
  sme.at = plan.sme.at;
  sme.in = even;
  sme.out = odd;
  const bool tall = plan.sme.threads > kThreads;
  start(plan.sme_rounds  ? kernels.sme
        : plan.sme_broad ? kernels.sme11_broad
        : tall           ? kernels.sme11_tall
                         : kernels.sme11,
        sme, plan.sme);

  FfnParams second = g.sme_ffn;
  second.at = plan.ffn.at;
  second.in = odd;
  second.out = even;
  start(kernels.ffn, second, plan.ffn);
}

void Run::tail(const void* in, void* between) {
  if (net.wide) return wide_tail(in);
  ConvParams conv = net.conv;
  conv.at = plan.ends.at;
  conv.in = in;
  conv.skip = memory.skip;
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
  const size_t image = (size_t)p.n * run.net.in_chans * p.h * p.w * bytes_of(p.pixels);
  declare(p.input, image, "the input", false);
  declare(p.output, image * run.net.scale * run.net.scale, "the output", true);
  for (int i = 0; i < run.plan.count; ++i) {
    const Buffer& buffer = run.plan.buffers[i];
    declare(static_cast<unsigned char*>(p.workspace) + buffer.at, buffer.bytes, buffer.name, true);
  }
}

static Memory memory_of(const Plan& plan, void* workspace) {
  auto at = [&](size_t offset) -> void* { return static_cast<unsigned char*>(workspace) + offset; };
  auto floats = [&](size_t offset) { return static_cast<float*>(at(offset)); };
  Memory m = {};
  m.skip = at(plan.skip);
  for (int i = 0; i < 2; ++i) m.stream[i] = at(plan.stream[i]);
  m.b = at(plan.b);
  m.c = at(plan.c);
  for (int i = 0; i < kMostRecursive; ++i) m.low[i] = floats(plan.low[i]);
  m.partial = floats(plan.partial);
  m.map = at(plan.map);
  m.weight = floats(plan.weight);
  m.bias = floats(plan.bias);
  for (int i = 0; i < 4; ++i) m.plane[i] = at(plan.plane[i]);
  m.mixed = floats(plan.mixed);
  return m;
}

const char* run(const Network& net, const Kernels& kernels, const Plan& plan,
                const sm_cuda_forward_params& params) {
  const Window all = {(int)params.h, (int)params.w, 0, 0};
  Run run{net, kernels, plan, params, memory_of(plan, params.workspace), all};
  declare_all(run);
  run.head(run.memory.skip);
  const void* in = run.memory.skip;
  for (const Network::Group& g : net.groups) {
    run.before_pooling(g, in);
    run.pooled(g);
    run.after_pooling(g);
    in = run.memory.stream[0];
  }
  run.tail(in, run.memory.stream[1]);
  forget_declared();
  return run.error;
}

}  // namespace cuda
}  // namespace seemore
