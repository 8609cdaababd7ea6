// The CUDA engine's C API: checks, packing, and the order of the launches.
#include <algorithm>
#include <memory>
#include <new>

#include "cuda/launch.h"
#include "cuda/pack.h"
#include "cuda/plan.h"
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

#define SM_TRY(call) \
  if (const char* error = (call)) return fail(SM_ERROR_DEVICE, "CUDA: %s", error)

Kernels kernels_of(sm_cuda_precision precision, int width) {
  Kernels table = {};
  auto add = [&](auto ends, auto rme, auto mix_ffn, auto ffn, auto sme) {
    ends(table, width), rme(table, width), mix_ffn(table, width), ffn(table, width), sme(table, width);
  };
#define SM_ADD(name)                                                                  \
  add(name##_kernels::add_ends, name##_kernels::add_rme, name##_kernels::add_mix_ffn, \
      name##_kernels::add_ffn, name##_kernels::add_sme)
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

const char* prepare(const Kernels& k, size_t shared) {
  for (const char* error :
       {k.rme.prepare(shared), k.mix_ffn.prepare(shared), k.ffn.prepare(shared), k.sme11.prepare(shared),
        k.sme.prepare(shared), k.conv.prepare(shared), k.upsample.prepare(shared)})
    if (error) return error;
  return nullptr;
}

sm_status check(const sm_network& net) {
  const int widest = 8 * *std::max_element(std::begin(kWidths), std::end(kWidths));
  const struct {
    const char* name;
    int value, least, most;
  } limits[] = {
      {"scale", net.scale, 1, 64},
      {"in_chans", net.in_chans, 1, 1024},
      {"num_experts", net.num_experts, 1, kMostExperts},
      {"embedding_dim", net.dim, 1, widest},
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
  const bool groups = !engine.net.groups.empty();
  if (!plan->ends.shared || (groups && (!plan->rme.shared || !plan->mix_ffn.shared || !plan->sme.shared)))
    return fail(
        SM_ERROR_UNSUPPORTED,
        "embedding_dim %d with global_kernel_size %d needs more shared memory than this GPU has (%zu bytes)",
        engine.net.dim, engine.net.kernel, engine.info.shared_limit);
  return SM_OK;
}

// Launches everything, in order, on one stream.
struct Run {
  const sm_cuda_engine& engine;
  const sm_cuda_forward_params& params;
  const Plan& plan;
  const char* error = nullptr;

  unsigned images() const { return (unsigned)params.n; }
  void* at(size_t offset) const { return static_cast<unsigned char*>(params.workspace) + offset; }
  PixelType pixels() const { return static_cast<PixelType>(params.pixels); }

  template <class Params>
  void start(const Kernel<Params>& kernel, const Params& p, unsigned blocks, size_t shared) {
    if (!error) error = kernel.start(p, {blocks, images()}, shared, params.stream);
  }

  template <class Params>
  void start(const Kernel<Params>& kernel, const Params& p, const Step& step) {
    start(kernel, p, (unsigned)step.at.count, step.shared);
  }

  unsigned blocks_for(size_t tasks) const { return (unsigned)((tasks + 255) / 256); }

  void head() {
    HeadParams p = engine.net.head;
    p.at = plan.ends.at;
    p.in = params.input;
    p.type = pixels();
    p.out = at(plan.skip);
    start(engine.kernels.head, p, blocks_for((size_t)params.h * params.w * engine.net.width), 0);
  }

  // in -> out over both streams: they alternate, for a kernel reads its neighbours' pixels.
  void group(const Network::Group& g, void* in, void* even, void* odd) {
    RmeParams rme = g.rme;
    rme.at = plan.rme.at;
    rme.in = in;
    rme.yp = odd;
    rme.b = at(plan.b);
    rme.c = at(plan.c);
    rme.low = static_cast<float*>(at(plan.low[0]));
    rme.partial = static_cast<float*>(at(plan.partial));
    rme.low_h = plan.low_h[0];
    rme.low_w = plan.low_w[0];
    start(engine.kernels.rme, rme, (unsigned)plan.blocks, plan.rme.shared);

    const int last = engine.net.recursive - 1;
    for (int level = 1; level < last; ++level) {
      AggregateParams p = g.aggregate;
      p.in = static_cast<const float*>(at(plan.low[level - 1]));
      p.out = static_cast<float*>(at(plan.low[level]));
      p.in_h = plan.low_h[level - 1];
      p.in_w = plan.low_w[level - 1];
      p.out_h = plan.low_h[level];
      p.out_w = plan.low_w[level];
      start(engine.kernels.aggregate, p, blocks_for((size_t)p.out_h * p.out_w * 8 * engine.net.width), 0);
    }

    FfnParams first = g.rme_ffn;
    first.at = plan.mix_ffn.at;
    first.in = odd;
    first.out = even;
    first.mix_offset = plan.mix_offset;
    MixParams& mix = first.mix;
    const int stored = std::max(0, last - 1);  // the last level but one, where there are two
    mix.b = rme.b;
    mix.c = rme.c;
    mix.partial = rme.partial;
    mix.low = static_cast<const float*>(at(plan.low[stored]));
    mix.low_h = plan.low_h[stored];
    mix.low_w = plan.low_w[stored];
    mix.aggregate_again = stored < last;
    mix.map_h = plan.low_h[last];
    mix.map_w = plan.low_w[last];
    mix.most_rows = plan.most_rows;
    mix.most_columns = plan.most_columns;
    mix.blocks = plan.blocks;
    start(engine.kernels.mix_ffn, first, plan.mix_ffn);

    SmeParams sme = g.sme;
    sme.at = plan.sme.at;
    sme.in = even;
    sme.out = odd;
    start(plan.sme_rounds ? engine.kernels.sme : engine.kernels.sme11, sme, plan.sme);

    FfnParams second = g.sme_ffn;
    second.at = plan.ffn.at;
    second.in = odd;
    second.out = even;
    start(engine.kernels.ffn, second, plan.ffn);
  }

  void tail(const void* in, void* between) {
    ConvParams conv = engine.net.conv;
    conv.at = plan.ends.at;
    conv.in = in;
    conv.skip = at(plan.skip);
    conv.out = between;
    start(engine.kernels.conv, conv, plan.ends);
    UpsampleParams up = engine.net.upsample;
    up.at = plan.ends.at;
    up.in = between;
    up.out = params.output;
    up.type = pixels();
    start(engine.kernels.upsample, up, plan.ends);
  }

  void all() {
    head();
    void *in = at(plan.skip), *even = at(plan.stream[0]), *odd = at(plan.stream[1]);
    for (const Network::Group& g : engine.net.groups) {
      group(g, in, even, odd);
      in = even;
    }
    tail(in, odd);
  }

  // For cudasim: what the kernels may touch.
  void declare_all() const {
    const Network& net = engine.net;
    const size_t pixel = params.pixels == SM_CUDA_PIXELS_FP32 ? 4
                         : params.pixels == SM_CUDA_PIXELS_U8 ? 1
                                                              : 2;
    const size_t image = (size_t)params.n * net.in_chans * params.h * params.w * pixel;
    declare(engine.weights, engine.weight_bytes, "the weights", false);
    declare(params.input, image, "the input", false);
    declare(params.output, image * net.scale * net.scale, "the output", true);
    auto part = [&](size_t from, size_t to, const char* name) { declare(at(from), to - from, name, true); };
    part(plan.skip, plan.stream[0], "skip");
    part(plan.stream[0], plan.stream[1], "stream 0");
    part(plan.stream[1], plan.b, "stream 1");
    part(plan.b, plan.c, "b");
    part(plan.c, plan.low[0], "c");
    part(plan.low[0], plan.partial, "low");
    part(plan.partial, plan.total, "partial");
  }
};

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
    const int width =
        *std::find_if(std::begin(kWidths), std::end(kWidths), [&](int w) { return 8 * w >= net->dim; });
    engine->kernels = kernels_of(precision, width);
    SM_TRY(prepare(engine->kernels, engine->info.shared_limit));
    engine->weight_bytes = pack(*net, precision, width, nullptr, nullptr, &engine->net);
    if (const char* error = allocate(&engine->weights, engine->weight_bytes))
      return fail(SM_ERROR_MEMORY, "%zu bytes for weights: %s", engine->weight_bytes, error);
    std::vector<unsigned char> host(engine->weight_bytes);
    pack(*net, precision, width, host.data(), static_cast<unsigned char*>(engine->weights), &engine->net);
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
  Run run{engine, *params, plan};
  run.declare_all();
  run.all();
  forget_declared();
  SM_TRY(run.error);
  return SM_OK;
}
