// The CUDA engine's C API: checks and packing.
#include <algorithm>
#include <memory>
#include <new>
#include <string>

#include "cuda/engine/kernels.h"
#include "cuda/engine/pack.h"
#include "cuda/engine/plan.h"
#include "cuda/engine/run.h"
#include "cuda/runtime.h"
#include "seemore_cuda.h"
#include "status.h"

using namespace seemore;
using namespace seemore::cuda;

struct sm_cuda_engine {
  Network net;
  DeviceInfo info;
  Kernels kernels;
  int device;
  sm_cuda_precision precision;
  int element;  // bytes of an activation
  bool sme_rounds;
  size_t weight_bytes;
  void* weights;
};

namespace {

constexpr int kMostImages = 65535;    // a dimension of the grid
constexpr int kMostSide = 4 * 65535;  // rows of tiles are another
constexpr int64_t kMostPixels = INT32_MAX;
constexpr int kMostChannels = 8192;

#define SM_TRY(call) \
  if (const char* error = (call)) return fail(SM_ERROR_DEVICE, "CUDA: %s", error)

// Tiles of 8 channels in a stream of a narrow network: a width that kernels are compiled for; 0: none is.
int narrow_width(int dim) {
  const int* width =
      std::find_if(std::begin(kWidths), std::end(kWidths), [&](int w) { return 8 * w >= dim; });
  return width != std::end(kWidths) ? *width : 0;
}

// The plan of the smallest image, whose coarse map is the largest for its size: no other needs more memory.
Plan least_plan(const sm_cuda_engine& engine) {
  const int least = 1 << (2 * engine.net.recursive);
  return make_plan(engine.net, engine.precision, engine.info, 1, least, least);
}

// Whether the GPU's shared memory holds a tile for each of a narrow network's kernels.
bool fits(const Plan& plan) {
  return plan.rme.shared && plan.mix_ffn.shared && plan.sme.shared && plan.ffn.shared && plan.ends.shared;
}

// Describes the network's engine on that device.
void describe(const sm_network& net, sm_cuda_precision precision, const DeviceInfo& info,
              sm_cuda_engine* engine) {
  engine->precision = precision;
  engine->element = element_bytes(precision);
  engine->info = info;
  if (const int width = narrow_width(net.dim)) {
    // Without room for bands, stripes run in rounds, whose weights are others.
    for (const bool rounds : {false, true}) {
      engine->weight_bytes = pack(net, precision, width, false, rounds, nullptr, nullptr, &engine->net);
      const Plan plan = least_plan(*engine);
      engine->sme_rounds = plan.sme_rounds;
      if (!fits(plan)) break;
      if (rounds || !plan.sme_rounds) return;
    }
  }
  engine->weight_bytes =
      pack(net, precision, (net.dim + 15) / 16 * 2, true, false, nullptr, nullptr, &engine->net);
}

sm_status check(const sm_network& net, sm_cuda_precision precision) {
  if (precision < SM_CUDA_FP32 || precision > SM_CUDA_BF16)
    return fail(SM_ERROR_ARGUMENT, "precision must lie in 0..3, got %d", (int)precision);
  const struct {
    const char* name;
    int value, least, most;
  } limits[] = {
      {"scale", net.scale, 1, 64},
      {"in_chans", net.in_chans, 1, 1024},
      {"num_experts", net.num_experts, 1, kMostExperts},
      {"embedding_dim", net.dim, 1, kMostChannels},
      {"global_kernel_size", net.kernel, 1, 255},
      {"recursive", net.recursive, 1, kMostRecursive},
      {"topk", net.topk, 1, net.num_experts},
  };
  for (const auto& limit : limits)
    if (limit.value < limit.least || limit.value > limit.most)
      return fail(SM_ERROR_UNSUPPORTED, "%s must lie in %d..%d for the CUDA engine, got %d", limit.name,
                  limit.least, limit.most, limit.value);
  return SM_OK;
}

sm_status plan_for(const sm_cuda_engine& engine, int64_t n, int64_t h, int64_t w, Plan* plan) {
  const int64_t least = (int64_t)1 << (2 * engine.net.recursive);
  if (h < least || w < least || h > kMostSide || w > kMostSide)
    return fail(SM_ERROR_ARGUMENT, "image height and width must lie in %lld..%d, got %lld x %lld",
                (long long)least, kMostSide, (long long)h, (long long)w);
  if (n < 1 || n > kMostImages)
    return fail(SM_ERROR_ARGUMENT, "n must lie in 1..%d, got %lld", kMostImages, (long long)n);
  *plan = make_plan(engine.net, engine.precision, engine.info, (int)n, (int)h, (int)w);
  return SM_OK;
}

// Kernels number pixels by a word: of a stream that has more no card has the memory.
sm_status check_count(int64_t n, int64_t h, int64_t w) {
  if (n * h * w > kMostPixels)
    return fail(SM_ERROR_ARGUMENT, "images, or a crop, must have at most %lld pixels, got %lld x %lld x %lld",
                (long long)kMostPixels, (long long)n, (long long)h, (long long)w);
  return SM_OK;
}

// The image's plan, and the bytes that a phase needs for a crop of it.
sm_status plan_for_tile(const sm_cuda_engine& engine, int64_t full_h, int64_t full_w, int64_t h, int64_t w,
                        Plan* plan, int64_t* workspace) {
  if (const sm_status status = plan_for(engine, 1, full_h, full_w, plan)) return status;
  if (h < 1 || w < 1 || h > full_h || w > full_w)
    return fail(SM_ERROR_ARGUMENT, "a crop must lie in the image, got %lld x %lld", (long long)h,
                (long long)w);
  if (const sm_status status = check_count(1, h, w)) return status;
  *workspace = (int64_t)tile_workspace(engine.net, *plan, engine.element, h, w);
  return SM_OK;
}

sm_status check_memory(sm_cuda_pixels pixels, const void* workspace, int64_t bytes, int64_t least) {
  if (pixels < SM_CUDA_PIXELS_FP32 || pixels > SM_CUDA_PIXELS_U8)
    return fail(SM_ERROR_ARGUMENT, "pixels must lie in 0..3, got %d", (int)pixels);
  if (bytes < least)
    return fail(SM_ERROR_ARGUMENT, "workspace_bytes must be at least %lld, got %lld", (long long)least,
                (long long)bytes);
  if (reinterpret_cast<uintptr_t>(workspace) % 256)
    return fail(SM_ERROR_ARGUMENT, "workspace must be aligned to 256 bytes");
  return SM_OK;
}

}  // namespace

sm_status sm_cuda_devices(int* count) {
  *count = 0;
  if (const char* error = count_devices(count)) return fail(SM_ERROR_UNSUPPORTED, "%s", error);
  return *count ? SM_OK : fail(SM_ERROR_UNSUPPORTED, "there is no CUDA device");
}

sm_status sm_cuda_capability(int device, int* capability) {
  DeviceInfo info = {};
  if (const char* error = describe_device(device, &info)) return fail(SM_ERROR_UNSUPPORTED, "%s", error);
  *capability = info.capability;
  return SM_OK;
}

sm_status sm_cuda_engine_programs(const sm_network* net, sm_cuda_precision precision, int device,
                                  int capability, sm_cuda_visit visit, void* context) {
  if (const sm_status status = check(*net, precision)) return status;
  sm_cuda_engine engine = {};
  DeviceInfo info = usual_device(capability);
  if (device >= 0) SM_TRY(describe_device(device, &info));
  describe(*net, precision, info, &engine);
  for (const Program& program : programs_of(engine.net, precision, engine.sme_rounds))
    visit(context, program.source.c_str(), program.options.c_str(), program.special.c_str());
  return SM_OK;
}

int sm_cuda_is_loaded(int device, const char* source, const char* options, const char* special) {
  return is_loaded(device, {source, options, special});
}

sm_status sm_cuda_load(int device, const char* source, const char* options, const char* special,
                       const void* image, int64_t bytes) {
  SM_TRY(load_program(device, {source, options, special}, image, (size_t)bytes));
  return SM_OK;
}

sm_status sm_cuda_engine_size(const sm_network* net, sm_cuda_precision precision, int device,
                              int64_t* bytes) {
  if (const sm_status status = check(*net, precision)) return status;
  sm_cuda_engine engine = {};
  DeviceInfo info = {};
  SM_TRY(describe_device(device, &info));
  describe(*net, precision, info, &engine);
  *bytes = (int64_t)engine.weight_bytes;
  return SM_OK;
}

sm_status sm_cuda_engine_create(const sm_network* net, sm_cuda_precision precision, int device, void* host,
                                void* weights, sm_cuda_engine** out) {
  if (const sm_status status = check(*net, precision)) return status;
  std::unique_ptr<sm_cuda_engine> engine(new (std::nothrow) sm_cuda_engine());
  if (!engine) return fail(SM_ERROR_MEMORY, "no memory for the packed network");
  DeviceInfo info = {};
  SM_TRY(describe_device(device, &info));
  describe(*net, precision, info, engine.get());
  engine->device = device;
  engine->weights = weights;
  SM_TRY(find_kernels(device, engine->net, precision, engine->sme_rounds, &engine->kernels));
  pack(*net, precision, engine->net.width, engine->net.wide, engine->sme_rounds,
       static_cast<unsigned char*>(host), static_cast<unsigned char*>(weights), &engine->net);
  *out = engine.release();
  return SM_OK;
}

void sm_cuda_engine_destroy(sm_cuda_engine* engine) { delete engine; }

sm_status sm_cuda_engine_workspace(const sm_cuda_engine* engine, int64_t n, int64_t h, int64_t w,
                                   int64_t* bytes) {
  Plan plan = {};
  if (const sm_status status = plan_for(*engine, n, h, w, &plan)) return status;
  *bytes = (int64_t)plan.total;
  return SM_OK;
}

sm_status sm_cuda_engine_parts(const sm_cuda_engine* engine, int64_t n, int64_t h, int64_t w,
                               sm_cuda_visit_part visit, void* context) {
  Plan plan = {};
  if (const sm_status status = plan_for(*engine, n, h, w, &plan)) return status;
  for (int i = 0; i < plan.count; ++i)
    visit(context, plan.buffers[i].name, (int64_t)plan.buffers[i].at, (int64_t)plan.buffers[i].bytes);
  return SM_OK;
}

sm_status sm_cuda_engine_forward(const sm_cuda_forward_params* params) {
  const sm_cuda_engine& engine = *params->engine;
  Plan plan = {};
  if (const sm_status status = plan_for(engine, params->n, params->h, params->w, &plan)) return status;
  if (const sm_status status = check_count(params->n, params->h, params->w)) return status;
  if (const sm_status status =
          check_memory(params->pixels, params->workspace, params->workspace_bytes, (int64_t)plan.total))
    return status;
  const OnDevice on(engine.device);
  SM_TRY(on.error);
  declare(engine.weights, engine.weight_bytes, "the weights", false);  // for cudasim
  SM_TRY(run(engine.net, engine.kernels, plan, *params));
  return SM_OK;
}

sm_status sm_cuda_engine_tile_layout(const sm_cuda_engine* engine, int64_t full_h, int64_t full_w, int64_t h,
                                     int64_t w, sm_cuda_tile_layout* layout) {
  Plan plan = {};
  int64_t workspace = 0;
  if (const sm_status status = plan_for_tile(*engine, full_h, full_w, h, w, &plan, &workspace)) return status;
  *layout = {8 * engine->net.width,
             engine->net.ranks,
             plan.rme.at.tile_h,
             plan.rme.at.tile_w,
             map_element(engine->net, engine->element),
             workspace};
  return SM_OK;
}

sm_status sm_cuda_engine_tile(const sm_cuda_tile_params* params) {
  const sm_cuda_tile_params& p = *params;
  const sm_cuda_engine& engine = *p.engine;
  Plan plan = {};
  int64_t workspace = 0;
  if (const sm_status status = plan_for_tile(engine, p.full_h, p.full_w, p.h, p.w, &plan, &workspace))
    return status;
  if (p.top < 0 || p.left < 0 || p.top % SM_CUDA_TILE_STEP || p.left % SM_CUDA_TILE_STEP ||
      p.top + p.h > p.full_h || p.left + p.w > p.full_w)
    return fail(SM_ERROR_ARGUMENT, "a crop must begin at multiples of %d and lie in the image",
                SM_CUDA_TILE_STEP);
  if (p.phase < SM_PHASE_HEAD || p.phase > SM_PHASE_TAIL)
    return fail(SM_ERROR_ARGUMENT, "phase must lie in 0..4, got %d", (int)p.phase);
  if (p.group < 0 || (p.group > 0 && p.group >= (int)engine.net.groups.size()))
    return fail(SM_ERROR_ARGUMENT, "group must lie in 0..%zu, got %d", engine.net.groups.size() - 1, p.group);
  if (const sm_status status = check_memory(p.pixels, p.workspace, p.workspace_bytes, workspace))
    return status;
  const OnDevice on(engine.device);
  SM_TRY(on.error);
  declare(engine.weights, engine.weight_bytes, "the weights", false);  // for cudasim
  SM_TRY(run_tile(engine.net, engine.kernels, plan, engine.element, p));
  return SM_OK;
}

sm_status sm_cuda_capture_begin(int device, void* stream) {
  SM_TRY(begin_capture(device, stream));
  return SM_OK;
}

sm_status sm_cuda_capture_end(int device, void* stream, sm_cuda_graph** graph) {
  SM_TRY(end_capture(device, stream, reinterpret_cast<Graph**>(graph)));
  return SM_OK;
}

sm_status sm_cuda_graph_launch(const sm_cuda_graph* graph, void* stream) {
  SM_TRY(launch(reinterpret_cast<const Graph*>(graph), stream));
  return SM_OK;
}

void sm_cuda_graph_destroy(sm_cuda_graph* graph) { destroy(reinterpret_cast<Graph*>(graph)); }
