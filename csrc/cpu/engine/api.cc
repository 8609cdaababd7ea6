// The engine's C API: checks, packing, planning, and the start of a run.
#include <algorithm>
#include <memory>
#include <new>

#include "cpu/engine/pack.h"
#include "cpu/engine/plan.h"
#include "cpu/engine/run.h"
#include "cpu/isa/dispatch.h"
#include "cpu/isa/pool.h"

using namespace seemore;
using namespace seemore::engine;

namespace {

sm_status check(const sm_network& net) {
  auto range = [](const char* name, int value, int least, int most) {
    if (value >= least && value <= most) return SM_OK;
    return fail(SM_ERROR_UNSUPPORTED, "%s must lie in %d..%d for the native engine, got %d", name, least,
                most, value);
  };
  const struct {
    const char* name;
    int value, least, most;
  } limits[] = {
      {"scale", net.scale, 1, 64},
      {"in_chans", net.in_chans, 1, 1024},
      {"num_experts", net.num_experts, 1, kMaxExperts},
      {"num_layers", net.num_layers, 0, 1 << 16},
      {"embedding_dim", net.dim, 1, 1 << 14},
      {"global_kernel_size", net.kernel, 1, kMaxKernel},
      {"recursive", net.recursive, 1, kMaxRecursive},
      {"topk", net.topk, 1, net.num_experts},
  };
  for (const auto& limit : limits) {
    if (const sm_status status = range(limit.name, limit.value, limit.least, limit.most)) return status;
  }
  return SM_OK;
}

// Runs `run` on the plan's threads; SM_ERROR_INTERRUPTED where poll asked for it.
sm_status start(void (*function)(Run&, int, int), Run& run) {
  Barrier barrier;
  run.barrier = &barrier;
  struct Job {
    void (*function)(Run&, int, int);
    Run& run;
  } job = {function, run};
  parallel(
      run.plan->threads,
      [](void* context, int thread, int threads) {
        const Job& j = *static_cast<Job*>(context);
        j.function(j.run, thread, threads);
      },
      &job);
  return run.stop ? fail(SM_ERROR_INTERRUPTED, "interrupted") : SM_OK;
}

sm_status check_workspace(size_t floats, int64_t bytes) {
  const long long needed = floats * sizeof(float);
  if (bytes >= needed) return SM_OK;
  return fail(SM_ERROR_ARGUMENT, "workspace_bytes must be at least %lld, got %lld", needed, (long long)bytes);
}

// A batch of small images goes to the threads image by image: bands of so few rows would mostly be halo.
constexpr int64_t kSmallPixels = 128 * 128;

// Some of a batch's images at a time, each in one thread; the others one after the other in bands.
struct Schedule {
  Plan bands, alone;
  int64_t at_once;  // 0: no image is in one thread
  int64_t whole;    // images that are
  size_t each;      // floats of workspace for one

  size_t floats() const { return std::max<size_t>(forward_floats(bands), at_once * each); }
};

sm_status schedule_for(const sm_forward_params& params, Schedule& to, const EngineTable*& table) {
  if (const sm_status status = plan_for(params, to.bands, table)) return status;
  if (params.n < 2 || params.threads < 2 || params.h * params.w > kSmallPixels) return SM_OK;
  sm_forward_params one = params;
  one.threads = 1;
  if (const sm_status status = plan_for(one, to.alone, table)) return status;
  to.each = round_up(forward_floats(to.alone), kColumnAlign);
  to.at_once = std::min<int64_t>(params.n, params.threads);
  if (params.workspace_limit > 0)
    to.at_once = std::min<int64_t>(to.at_once, params.workspace_limit / (to.each * sizeof(float)));
  if (to.at_once < 2) to.at_once = 0;
  if (to.at_once) to.whole = params.n / to.at_once * to.at_once;
  return SM_OK;
}

Run run_of(const sm_forward_params& params, const Plan& plan, int64_t image, float* workspace) {
  const Model& m = params.engine->model;
  const size_t element = params.u8 ? 1 : sizeof(float);
  const size_t bytes = (size_t)m.in_chans * params.h * params.w * element;
  Run run = {};
  run.model = &m;
  run.plan = &plan;
  run.image = {static_cast<const char*>(params.input) + image * bytes,
               static_cast<char*>(params.output) + image * bytes * m.scale * m.scale, params.u8 != 0};
  run.stream = workspace;
  run.map = run.stream + plan.plane;
  run.workspace = run.map + plan.map;
  run.scratch = run.workspace + plan.workspace;
  run.poll = params.poll;
  run.poll_context = params.poll_context;
  return run;
}

// What the threads share that have an image each.
struct Images {
  const sm_forward_params& params;
  const Schedule& schedule;
  const EngineTable* table;
  int64_t next = 0;
  int stop = 0;  // set by the calling thread, which alone may ask
};

void take_images(void* context, int thread, int) {
  Images& images = *static_cast<Images*>(context);
  float* const workspace = static_cast<float*>(images.params.workspace) + thread * images.schedule.each;
  auto stopped = [](void* of) { return __atomic_load_n(&static_cast<Images*>(of)->stop, __ATOMIC_RELAXED); };
  for (int64_t i; (i = __atomic_fetch_add(&images.next, 1, __ATOMIC_RELAXED)) < images.schedule.whole;) {
    Run run = run_of(images.params, images.schedule.alone, i, workspace);
    Barrier barrier;
    run.barrier = &barrier;
    if (thread > 0) {
      run.poll = stopped;
      run.poll_context = context;
    }
    images.table->forward(run, 0, 1);
    if (!run.stop) continue;
    if (thread == 0) __atomic_store_n(&images.stop, 1, __ATOMIC_RELAXED);
    return;
  }
}

}  // namespace

sm_status sm_engine_create(const sm_network* net, int bf16, sm_engine** out) {
  if (const sm_status status = check(*net)) return status;
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  if (bf16 && !isa->engine->bf16)
    return fail(
        SM_ERROR_UNSUPPORTED,
        "bf16 needs a CPU with AVX512-BF16 (instruction set v4bf16) or ARM's BF16 (neonbf16); in use is %s",
        sm_isa());
  try {
    auto engine = std::make_unique<sm_engine>();
    pack(*net, bf16 != 0, *engine);
    *out = engine.release();
    return SM_OK;
  } catch (const std::bad_alloc&) {
    return fail(SM_ERROR_MEMORY, "no memory for the packed weights");
  }
}

void sm_engine_destroy(sm_engine* engine) { delete engine; }

sm_status sm_engine_workspace(const sm_forward_params* params, int64_t* bytes) {
  Schedule schedule = {};
  const EngineTable* table;
  if (const sm_status status = schedule_for(*params, schedule, table)) return status;
  *bytes = schedule.floats() * sizeof(float);
  return SM_OK;
}

sm_status sm_engine_forward(const sm_forward_params* params) {
  Schedule schedule = {};
  const EngineTable* table;
  if (const sm_status status = schedule_for(*params, schedule, table)) return status;
  if (const sm_status status = check_workspace(schedule.floats(), params->workspace_bytes)) return status;
  if (schedule.at_once) {
    Images images = {*params, schedule, table};
    parallel((int)schedule.at_once, take_images, &images);
    if (images.stop) return fail(SM_ERROR_INTERRUPTED, "interrupted");
  }
  for (int64_t i = schedule.whole; i < params->n; ++i) {
    Run run = run_of(*params, schedule.bands, i, static_cast<float*>(params->workspace));
    if (const sm_status status = start(table->forward, run)) return status;
  }
  return SM_OK;
}

sm_status sm_engine_tile_workspace(const sm_tile_params* params, int64_t* bytes) {
  Plan plan = {};
  const EngineTable* table;
  if (const sm_status status = plan_for(*params, plan, table)) return status;
  *bytes = tile_floats(plan) * sizeof(float);
  return SM_OK;
}

sm_status sm_engine_tile(const sm_tile_params* params) {
  Plan plan = {};
  const EngineTable* table;
  if (const sm_status status = plan_for(*params, plan, table)) return status;
  if (const sm_status status = check_workspace(tile_floats(plan), params->workspace_bytes)) return status;
  const Model& m = params->engine->model;
  Run run = {};
  run.model = &m;
  run.plan = &plan;
  run.image = {params->input, params->output, params->u8 != 0};
  run.stream = params->stream;
  run.map = params->map;
  run.workspace = static_cast<float*>(params->workspace);
  run.scratch = run.workspace + plan.workspace;
  run.phase = params->phase;
  run.group = params->group;
  run.aggregated = params->aggregated;
  run.sums = params->sums;
  if (params->phase == SM_PHASE_GROUP) {
    run.routing.count = m.topk;
    for (int i = 0; i < m.topk; ++i) {
      if (params->experts[i] < 0 || params->experts[i] >= m.num_experts)
        return fail(SM_ERROR_ARGUMENT, "experts must lie in 0..%d, got %d", m.num_experts - 1,
                    params->experts[i]);
      run.routing.expert[i] = params->experts[i];
      run.routing.weight[i] = params->weights[i];
    }
  }
  run.poll = params->poll;
  run.poll_context = params->poll_context;
  return start(table->tile, run);
}
