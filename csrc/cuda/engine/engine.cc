// The CUDA engine's C API: checks and packing.
#include <algorithm>
#include <memory>
#include <new>

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
  int element;  // bytes of an activation
  size_t weight_bytes;
  void* weights;
};

namespace {

constexpr int kMostSide = 1 << 20;
constexpr int kMostImages = 65535;  // a dimension of the grid
constexpr int kMostChannels = 8192;

#define SM_TRY(call) \
  if (const char* error = (call)) return fail(SM_ERROR_DEVICE, "CUDA: %s", error)

// Tiles of 8 channels in a stream of a narrow network: a width that kernels are compiled for; 0: none is.
int narrow_width(int dim) {
  const int* width =
      std::find_if(std::begin(kWidths), std::end(kWidths), [&](int w) { return 8 * w >= dim; });
  return width != std::end(kWidths) ? *width : 0;
}

// Those of narrow networks are missing where the width is none of kWidths.
Kernels kernels_of(sm_cuda_precision precision, int width) {
  Kernels table = {};
  auto add = [&](auto wide, auto... narrow) { wide(table), (narrow(table, width), ...); };
#define SM_ADD(name)                                                               \
  add(name##_kernels::add_wide, name##_kernels::add_ends, name##_kernels::add_rme, \
      name##_kernels::add_mix_ffn, name##_kernels::add_ffn, name##_kernels::add_sme)
  switch (precision) {
    case SM_CUDA_FP32:
      SM_ADD(Fp32);
      break;
    case SM_CUDA_TF32:
      SM_ADD(Tf32);
      break;
    case SM_CUDA_FP16:
      SM_ADD(Fp16);
      break;
    case SM_CUDA_BF16:
      SM_ADD(Bf16);
      break;
  }
#undef SM_ADD
  return table;
}

// Whether the GPU's shared memory holds a tile for each of a narrow network's kernels. No image needs more
// than the smallest, whose coarse map is the largest for its size.
bool fits(const sm_cuda_engine& engine) {
  const int least = 1 << (2 * engine.net.recursive);
  const Plan plan = make_plan(engine.net, engine.element, engine.info, 1, least, least);
  return plan.rme.shared && plan.mix_ffn.shared && plan.sme.shared && plan.ffn.shared;
}

// Packs the weights behind `host`, as they will be at engine.weights (null: only counts and describes them).
void pack_for(const sm_network& net, sm_cuda_precision precision, int width, bool wide, unsigned char* host,
              sm_cuda_engine* engine) {
  engine->weight_bytes =
      pack(net, precision, width, wide, host, static_cast<unsigned char*>(engine->weights), &engine->net);
}

// Narrow networks' kernels, for all the shared memory that there is.
const char* prepare(const Kernels& k, size_t shared) {
  for (const char* error :
       {k.rme.prepare(shared), k.mix_ffn.prepare(shared), k.ffn.prepare(shared), k.sme11.prepare(shared),
        k.sme.prepare(shared), k.conv.prepare(shared), k.upsample.prepare(shared)})
    if (error) return error;
  return nullptr;
}

sm_status check(const sm_network& net) {
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
  *plan = make_plan(engine.net, engine.element, engine.info, (int)n, (int)h, (int)w);
  return SM_OK;
}

}  // namespace

sm_status sm_cuda_devices(int* count) {
  *count = 0;
  if (const char* error = count_devices(count)) return fail(SM_ERROR_UNSUPPORTED, "%s", error);
  return *count ? SM_OK : fail(SM_ERROR_UNSUPPORTED, "there is no CUDA device");
}

sm_status sm_cuda_engine_create(const sm_network* net, sm_cuda_precision precision, int device,
                                sm_cuda_engine** out) {
  if (const sm_status status = check(*net)) return status;
  if (precision < SM_CUDA_FP32 || precision > SM_CUDA_BF16)
    return fail(SM_ERROR_ARGUMENT, "precision must lie in 0..3, got %d", (int)precision);
  try {
    std::unique_ptr<sm_cuda_engine, void (*)(sm_cuda_engine*)> engine(new sm_cuda_engine(),
                                                                      sm_cuda_engine_destroy);
    engine->device = device;
    engine->element = precision == SM_CUDA_FP16 || precision == SM_CUDA_BF16 ? 2 : 4;
    SM_TRY(describe_device(device, &engine->info));
    const OnDevice on(device);
    SM_TRY(on.error);
    int width = narrow_width(net->dim);
    if (width) pack_for(*net, precision, width, false, nullptr, engine.get());
    const bool wide = !width || !fits(*engine);
    if (wide) {
      width = (net->dim + 15) / 16 * 2;
      pack_for(*net, precision, width, true, nullptr, engine.get());
    }
    engine->kernels = kernels_of(precision, width);
    if (!wide) SM_TRY(prepare(engine->kernels, engine->info.shared_limit));
    if (const char* error = allocate(&engine->weights, engine->weight_bytes))
      return fail(SM_ERROR_MEMORY, "%zu bytes for weights: %s", engine->weight_bytes, error);
    std::vector<unsigned char> host(engine->weight_bytes);
    pack_for(*net, precision, width, wide, host.data(), engine.get());
    SM_TRY(upload(engine->weights, host.data(), host.size()));
    *out = engine.release();
    return SM_OK;
  } catch (const std::bad_alloc&) {
    return fail(SM_ERROR_MEMORY, "no memory for the packed weights");
  }
}

void sm_cuda_engine_destroy(sm_cuda_engine* engine) {
  if (!engine) return;
  if (engine->weights) {
    const OnDevice on(engine->device);
    if (!on.error) release(engine->weights);
  }
  delete engine;
}

sm_status sm_cuda_engine_workspace(const sm_cuda_engine* engine, int64_t n, int64_t h, int64_t w,
                                   int64_t* bytes) {
  Plan plan = {};
  if (const sm_status status = plan_for(*engine, n, h, w, &plan)) return status;
  *bytes = (int64_t)plan.total;
  return SM_OK;
}

sm_status sm_cuda_engine_forward(const sm_cuda_forward_params* params) {
  const sm_cuda_engine& engine = *params->engine;
  Plan plan = {};
  if (const sm_status status = plan_for(engine, params->n, params->h, params->w, &plan)) return status;
  if (params->pixels < SM_CUDA_PIXELS_FP32 || params->pixels > SM_CUDA_PIXELS_U8)
    return fail(SM_ERROR_ARGUMENT, "pixels must lie in 0..3, got %d", (int)params->pixels);
  if (params->workspace_bytes < (int64_t)plan.total)
    return fail(SM_ERROR_ARGUMENT, "workspace_bytes must be at least %zu, got %lld", plan.total,
                (long long)params->workspace_bytes);
  if (reinterpret_cast<uintptr_t>(params->workspace) % 256)
    return fail(SM_ERROR_ARGUMENT, "workspace must be aligned to 256 bytes");
  const OnDevice on(engine.device);
  SM_TRY(on.error);
  declare(engine.weights, engine.weight_bytes, "the weights", false);  // for cudasim
  SM_TRY(run(engine.net, engine.kernels, plan, *params));
  return SM_OK;
}
