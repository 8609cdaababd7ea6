// The launches of one phase of a tile: those of a forward over a crop, with routing and map of the image.
//
// Crops begin where the image's own tiles do, and kernels have the tiles that they have for the whole image:
// so every block computes what one of a forward's does, and every pixel comes out to the bit as there.
#include <algorithm>

#include "cuda/engine/run.h"
#include "cuda/runtime.h"

namespace seemore {
namespace cuda {
namespace {

size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Parts of the workspace, each from its beginning or from the previous one's end on.
struct Parts {
  size_t stream, ranks;             // of a crop: C channels; b or c
  size_t streams;                   // the second one, or a wide network's planes
  size_t low[kMostRecursive] = {};  // of the image: levels of aggregation after the first that are stored
  size_t mixed = 0;                 // of a wide network
  size_t levels = 0;                // all of them

  Parts(const Network& net, const Plan& plan, size_t element, size_t pixels)
      : stream(rounded(pixels * 8 * net.width * element)), ranks(rounded(pixels * net.ranks * element)) {
    streams = (net.wide ? 4 : 1) * stream;
    const auto bytes = [&](int level) {
      return rounded((size_t)plan.low_h[level] * plan.low_w[level] * 8 * net.width * sizeof(float));
    };
    const int last = net.recursive - 1;
    for (int level = 1; level < (net.wide ? last + 1 : last); ++level) {
      low[level] = levels;
      levels += bytes(level);
    }
    mixed = levels;
    if (net.wide) levels += bytes(last);
  }

  size_t all() const { return std::max(streams + std::max(2 * ranks, stream), levels); }
};

Plan plan_of_crop(Plan plan, int h, int w) {
  for (Step* step : {&plan.rme, &plan.mix_ffn, &plan.ffn, &plan.sme, &plan.ends}) {
    Tiling& at = step->at;
    at.h = h;
    at.w = w;
    at.across = (w + at.tile_w - 1) / at.tile_w;
    at.count = at.across * ((h + at.tile_h - 1) / at.tile_h);
  }
  return plan;
}

// For cudasim: what the phase's kernels may touch, the weights excepted.
void declare_all(const Network& net, const Plan& whole, const Plan& plan, const sm_cuda_tile_params& p,
                 size_t element) {
  const size_t channels = 8 * net.width, pixels = (size_t)p.h * p.w;
  const size_t image = net.in_chans * pixels * bytes_of(p.pixels);
  const bool all = p.phase == SM_PHASE_CALIBRATE,
             crop = p.phase == SM_PHASE_POOL || p.phase == SM_PHASE_GROUP;
  const int last = net.recursive - 1;
  const size_t low = all ? (size_t)whole.low_h[0] * whole.low_w[0] : (size_t)(p.h / 4) * (p.w / 4);
  const int blocks = all ? whole.blocks : plan.rme.at.count;
  declare(p.workspace, (size_t)p.workspace_bytes, "workspace", true);
  if (!all) declare(p.stream, pixels * channels * element, "stream", p.phase != SM_PHASE_POOL);
  if (p.phase == SM_PHASE_HEAD || p.phase == SM_PHASE_TAIL) declare(p.input, image, "the input", false);
  if (p.phase == SM_PHASE_TAIL) declare(p.output, image * net.scale * net.scale, "the output", true);
  if (all || crop) {
    declare(p.low, low * channels * sizeof(float), "low", crop);
    declare(p.partial, (size_t)blocks * net.experts * sizeof(float), "partial", crop);
  }
  if (all || p.phase == SM_PHASE_GROUP) {
    declare(p.map, (size_t)whole.low_h[last] * whole.low_w[last] * net.ranks * map_element(net, element),
            "map", all);
    declare(p.weight, net.ranks * sizeof(float), "weight", all);
    declare(p.bias, channels * sizeof(float), "bias", all);
  }
}

}  // namespace

size_t tile_workspace(const Network& net, const Plan& plan, int element, size_t h, size_t w) {
  return Parts(net, plan, element, h * w).all();
}

const char* run_tile(const Network& net, const Kernels& kernels, const Plan& whole, int element,
                     const sm_cuda_tile_params& p) {
  const bool all = p.phase == SM_PHASE_CALIBRATE;
  const Plan plan = all ? whole : plan_of_crop(whole, (int)p.h, (int)p.w);
  const Parts parts(net, whole, element, (size_t)p.h * p.w);
  sm_cuda_forward_params forward = {};
  forward.input = p.input;
  forward.output = p.output;
  forward.pixels = p.pixels;
  forward.n = 1;
  forward.h = p.h;
  forward.w = p.w;
  forward.stream = p.cuda_stream;
  auto* const workspace = static_cast<unsigned char*>(p.workspace);
  Memory memory = {};
  memory.stream[0] = p.stream;
  // A wide network's streams are one, but that a plane takes what is not to be kept.
  memory.stream[1] = net.wide && p.phase != SM_PHASE_POOL ? p.stream : workspace;
  for (int i = 0; net.wide && i < 4; ++i) memory.plane[i] = workspace + i * parts.stream;
  memory.skip = memory.b = workspace + parts.streams;  // never at once
  memory.c = workspace + parts.streams + parts.ranks;
  memory.low[0] = p.low;
  for (int level = 1; level < net.recursive; ++level)
    memory.low[level] = reinterpret_cast<float*>(workspace + parts.low[level]);
  memory.mixed = reinterpret_cast<float*>(workspace + parts.mixed);
  memory.partial = p.partial;
  memory.map = p.map;
  memory.weight = p.weight;
  memory.bias = p.bias;
  const Window window = {(int)p.full_h, (int)p.full_w, (int)p.top, (int)p.left};
  Run run{net, kernels, plan, forward, memory, window};
  declare_all(net, whole, plan, p, element);
  switch (p.phase) {
    case SM_PHASE_HEAD:
      run.head(p.stream);
      break;
    case SM_PHASE_POOL:
      run.before_pooling(net.groups[p.group], p.stream);
      break;
    case SM_PHASE_CALIBRATE:
      run.pooled(net.groups[p.group]);
      break;
    case SM_PHASE_GROUP:
      run.before_pooling(net.groups[p.group], p.stream);
      run.after_pooling(net.groups[p.group]);
      break;
    case SM_PHASE_TAIL:
      run.head(memory.skip);
      run.tail(p.stream, memory.stream[1]);
      break;
  }
  forget_declared();
  return run.error;
}

}  // namespace cuda
}  // namespace seemore
