// A forward's launches for networks that the fused kernels do not hold: wide.cuh's, stage by stage.
#include "cuda/engine/run.h"

namespace seemore {
namespace cuda {
namespace {

// What a dense layer does beside its product.
struct After {
  bool gelu = false;
  const void* residual = nullptr;  // added last
};

struct Stages {
  Run& run;
  const Network& net = run.net;
  const Plan& plan = run.plan;
  const Kernels& kernels = run.kernels;
  const Tiling& at = plan.ends.at;
  const int channels = run.channels();
  const size_t pixels = (size_t)at.h * at.w;
  const Memory& memory = run.memory;
  void* const stream = memory.stream[0];
  // Planes hold what the next stages need, and are taken again as soon as they do not.
  void* const* const plane = memory.plane;

  void normalise(const void* in, void* out, const Norm& norm = {}) {
    const NormaliseParams p = {at, channels, in, out, norm};
    run.start(kernels.normalise, p, run.blocks_of_warps(pixels), 0);
  }

  // Blocks for a dense layer, whose warps compute two tiles of outputs each.
  unsigned blocks_for(const Dense& layer) const {
    const size_t pieces = (pixels + 16 * kTogether - 1) / (16 * kTogether);
    return run.blocks_of_warps(pieces * (layer.tiles / 2));
  }

  void convolve(int taps, const Dense& layer, const void* in, void* out, const After& after) {
    const ProductParams p = {at, channels, taps, in, after.residual, out, layer, 0, after.gelu};
    run.start(kernels.product, p, blocks_for(layer), 0);
  }

  void dense(const Dense& layer, const void* in, void* out, const After& after = {}) {
    convolve(1, layer, in, out, after);
  }

  // A depthwise convolution that keeps the size, zero padded.
  FilterParams filter_of(int rows, int columns, const Depthwise& conv, const void* in, void* out) const {
    FilterParams p = {};
    p.in = in;
    p.out = out;
    p.in_h = p.out_h = at.h;
    p.in_w = p.out_w = at.w;
    p.channels = channels;
    p.rows = rows;
    p.columns = columns;
    p.stride = 1;
    p.top = rows / 2;
    p.left = columns / 2;
    p.conv = conv;
    return p;
  }

  void filter(const Kernel<FilterParams>& kernel, const FilterParams& p) {
    run.start(kernel, p, run.blocks_for((size_t)p.out_h * p.out_w * p.channels / 2), 0);
  }

  // Up to the pooling barrier: the stream, b, c, k aggregated once and partial logits.
  void rme(const Network::Group& group, const void* in) {
    const RmeParams& g = group.rme;
    normalise(in, plane[0], g.wide_norm);
    convolve(9, g.conv, plane[0], plane[1], {.gelu = true});
    dense(g.to_k, plane[1], plane[3]);
    dense(g.expert_c, plane[3], memory.c);
    FilterParams first = filter_of(4, 4, group.rme_ffn.mix.aggregate, plane[3], memory.low[0]);
    first.out_h = at.h / 4;
    first.out_w = at.w / 4;
    first.stride = 4;
    first.top = first.left = 0;
    first.gelu = true;
    filter(kernels.filter_to_float, first);

    dense(g.to_x, plane[1], plane[2]);
    filter(kernels.filter, filter_of(1, 3, g.wide_stripe_h, plane[2], plane[0]));
    FilterParams second = filter_of(3, 1, g.wide_stripe_v, plane[0], plane[2]);
    second.gelu = true;
    filter(kernels.filter, second);
    dense(g.expert_b, plane[2], memory.b);
    dense(g.proj, plane[2], memory.stream[1], {.residual = in});
    const LogitsParams logits = {plan.rme.at, channels, net.experts, plane[2], g.router, memory.partial};
    run.start(kernels.logits, logits, run.grid_of(logits.at, kThreads), channels * sizeof(float));
  }

  WideMixParams experts(const Network::Group& g) const {
    WideMixParams p = {};
    p.at = at;
    p.channels = channels;
    p.mix = run.mix_of(g);
    p.mixed = memory.mixed;
    p.map = static_cast<float*>(memory.map);
    p.weight = memory.weight;
    p.bias = memory.bias;
    p.z = memory.b;
    return p;
  }

  // The map and the routing of an image.
  void pooled(const Network::Group& g) {
    const int last = net.recursive - 1;
    for (int level = 1; level <= last; ++level) run.aggregate(g.rme_ffn.mix.aggregate, level);
    const WideMixParams p = experts(g);
    FilterParams low = filter_of(3, 3, p.mix.low_conv, memory.low[last], memory.mixed);
    low.in_h = low.out_h = p.mix.map_h;
    low.in_w = low.out_w = p.mix.map_w;
    filter(kernels.filter_low, low);
    run.start(kernels.project_low, p, run.blocks_for((size_t)p.mix.map_h * p.mix.map_w * net.ranks), 0);
    run.start(kernels.route, p, 1, net.experts * sizeof(float));
  }

  // The chosen experts, added to the stream.
  void mix(const Network::Group& g) {
    const WideMixParams p = experts(g);
    run.start(kernels.expert_products, p, run.blocks_for(pixels * net.ranks / 2), 0);
    Dense out = p.mix.expert_out;
    out.bias = p.bias;
    const ProductParams product = {at, net.ranks, 1, p.z, stream, stream, out, channels, false};
    run.start(kernels.product, product, blocks_for(out), 0);
  }

  void feed_forward(const FfnParams& g) {
    normalise(stream, plane[0]);
    dense(g.g, plane[0], plane[1], {.gelu = true});
    dense(g.a, plane[0], plane[2], {.gelu = true});
    FilterParams gate = filter_of(3, 3, g.wide_gate, plane[1], plane[3]);
    gate.times = plane[2];
    filter(kernels.filter, gate);
    dense(g.out_weight, plane[3], stream, {.gelu = true, .residual = stream});
  }

  void sme(const SmeParams& g) {
    normalise(stream, plane[0]);
    dense(g.to_q, plane[0], plane[1], {.gelu = true});
    dense(g.to_v, plane[0], plane[2], {.gelu = true});
    filter(kernels.filter, filter_of(1, g.kernel, g.stripe_h, plane[1], plane[3]));
    FilterParams vertical = filter_of(g.kernel, 1, g.stripe_v, plane[3], plane[1]);
    vertical.times = plane[2];
    filter(kernels.filter, vertical);
    dense(g.proj, plane[1], stream, {.residual = stream});
  }
};

}  // namespace

void Run::wide_before_pooling(const Network::Group& g, const void* in) { Stages{*this}.rme(g, in); }

void Run::wide_pooled(const Network::Group& g) { Stages{*this}.pooled(g); }

void Run::wide_after_pooling(const Network::Group& g) {
  Stages stages{*this};
  stages.mix(g);
  stages.feed_forward(g.rme_ffn);
  stages.sme(g.sme);
  stages.feed_forward(g.sme_ffn);
}

void Run::wide_tail(const void* in) {
  Stages stages{*this};
  stages.normalise(in, stages.plane[0], net.conv.norm);
  stages.convolve(9, net.conv.conv, stages.plane[0], stages.plane[1], {.residual = memory.skip});
  UpsampleParams up = net.upsample;
  up.at = stages.at;
  up.in = stages.plane[1];
  up.out = params.output;
  up.type = pixels();
  start(kernels.upsample_wide, up, stages.blocks_for(up.conv), 0);
}

}  // namespace cuda
}  // namespace seemore
