// Plans: strips, bands, and the workspace they take within a limit.
#include "cpu/engine/plan.h"

#include <algorithm>
#include <cstdint>

#include "cpu/engine/pack.h"
#include "cpu/engine/run.h"
#include "cpu/isa/dispatch.h"
#include "cpu/isa/features.h"

namespace seemore {
namespace engine {
namespace {

constexpr int kWideStrip = 640, kDefaultStrip = 320;  // columns
constexpr int kLeastStrip = kSumColumns;
constexpr int kLeastBand = 8;  // rows; in smaller bands threads would mostly compute each other's halo

size_t low_floats(int channels, int h, int w) {
  return (size_t)channels * h * (round_up(w, kColumnAlign) + 2 * kColumnAlign);
}

Area whole_image(int h, int w) { return {h, w, 0, h, 0, w, 0, 0, h, w}; }

Plan make_plan(const Model& m, const EngineTable& table, const Area& area, int threads, int widest_strip) {
  Plan plan = {};
  plan.area = area;
  plan.padded_w = round_up(area.w, kColumnAlign);
  plan.threads = threads;
  // Strips of nearly equal width.
  const int strips = (plan.padded_w + widest_strip - 1) / widest_strip;
  plan.strip = round_up((plan.padded_w + strips - 1) / strips, kSumColumns);
  plan.plane = (size_t)m.padded_dim * area.h * plan.padded_w;
  plan.ranks = (size_t)m.padded_rank * area.h * plan.padded_w;
  plan.sums = (size_t)sum_blocks(plan.padded_w) * area.h * m.padded_dim;
  if (plan.strip < plan.padded_w) plan.columns = (size_t)2 * area.h * m.padded_dim * halo_columns(m.kernel);
  if (threads > 1) plan.border = (size_t)2 * reach_of(m.kernel) * m.padded_dim * plan.padded_w;
  plan.workspace = 2 * plan.ranks + plan.sums + plan.columns + threads * plan.border;
  plan.map_h = area.full_h >> (2 * m.recursive);
  plan.map_w = area.full_w >> (2 * m.recursive);
  plan.map = low_floats(m.padded_rank, plan.map_h, plan.map_w);
  for (int i = 0; i < m.recursive; ++i) {
    plan.low_h[i] = (i ? area.y1 - area.y0 : area.h) >> (2 * i + 2);
    plan.low_w[i] = (i ? area.x1 - area.x0 : area.w) >> (2 * i + 2);
    plan.low[i] = low_floats(m.padded_dim, plan.low_h[i], plan.low_w[i]);
    plan.workspace += plan.low[i];
  }
  plan.scratch = table.scratch_floats(m, plan);
  return plan;
}

// Wide strips compute less twice, and read longer pieces of rows; narrow ones have smaller rings.  Wide is
// faster where a thread's rings fit half of what caches a core has (docs/notes/cpu-engine.md).
int widest_strip(const Model& m, const EngineTable& table, const Area& area) {
  const size_t rings = make_plan(m, table, area, 1, kWideStrip).scratch * sizeof(float);
  return 2 * rings <= cache_of_a_core() ? kWideStrip : kDefaultStrip;
}

sm_status table_for(const Model& m, const EngineTable*& table) {
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  table = isa->engine;
  if (m.bf16 && !table->bf16)
    return fail(SM_ERROR_UNSUPPORTED, "this engine was made for bf16, which instruction set %s lacks",
                sm_isa());
  return SM_OK;
}

sm_status check_size(const Model& m, int64_t h, int64_t w, int threads) {
  const int64_t least = (int64_t)1 << (2 * m.recursive);
  if (h < least || w < least || h > 1 << 24 || w > 1 << 24)
    return fail(SM_ERROR_ARGUMENT, "image height and width must lie in %lld..%d, got %lld x %lld",
                (long long)least, 1 << 24, (long long)h, (long long)w);
  if (threads < 1) return fail(SM_ERROR_ARGUMENT, "threads must be at least 1, got %d", threads);
  return SM_OK;
}

}  // namespace

size_t forward_floats(const Plan& plan) {
  return plan.plane + plan.map + plan.workspace + plan.threads * plan.scratch;
}
size_t tile_floats(const Plan& plan) { return plan.workspace + plan.threads * plan.scratch; }

sm_status plan_for(const sm_forward_params& params, Plan& plan, const EngineTable*& table) {
  const Model& m = params.engine->model;
  if (const sm_status status = table_for(m, table)) return status;
  if (const sm_status status = check_size(m, params.h, params.w, params.threads)) return status;
  // The widest strips that one thread can have within the limit; then as many threads as there is room for.
  const Area area = whole_image((int)params.h, (int)params.w);
  const size_t limit = params.workspace_limit > 0 ? params.workspace_limit / sizeof(float) : SIZE_MAX;
  int strip = widest_strip(m, *table, area), threads = 1;
  plan = make_plan(m, *table, area, threads, strip);
  for (; forward_floats(plan) > limit && strip > kLeastStrip;
       plan = make_plan(m, *table, area, threads, strip))
    strip = std::max(kLeastStrip, strip / 2);
  const size_t least = forward_floats(plan);
  if (least > limit)
    return fail(SM_ERROR_MEMORY,
                "workspace_limit of %lld bytes is too small for %lld x %lld pixels: at least %lld",
                (long long)params.workspace_limit, (long long)params.h, (long long)params.w,
                (long long)(least * sizeof(float)));
  threads = std::min(params.threads, std::max(1, area.h / kLeastBand));
  for (; threads > 1; --threads) {
    const Plan wider = make_plan(m, *table, area, threads, strip);
    if (forward_floats(wider) > limit) continue;
    plan = wider;
    break;
  }
  return SM_OK;
}

sm_status plan_for(const sm_tile_params& params, Plan& plan, const EngineTable*& table) {
  const Model& m = params.engine->model;
  if (const sm_status status = table_for(m, table)) return status;
  if (const sm_status status = check_size(m, params.full_h, params.full_w, params.threads)) return status;
  auto along = [&](const char* axis, int64_t full, int64_t from, int64_t size, int64_t begin, int64_t end) {
    const int64_t ratio = (int64_t)1 << (2 * m.recursive);
    const bool ok = from >= 0 && from % 4 == 0 && size >= 1 && from + size <= full && begin >= 0 &&
                    begin % 4 == 0 && begin < end && end <= size && (from + begin) % ratio == 0;
    if (ok) return SM_OK;
    return fail(SM_ERROR_ARGUMENT, "a tile's %s lie badly: [%lld, %lld) of a crop [%lld, %lld) of %lld", axis,
                (long long)begin, (long long)end, (long long)from, (long long)(from + size), (long long)full);
  };
  if (const sm_status status = along("rows", params.full_h, params.top, params.h, params.y0, params.y1))
    return status;
  if (const sm_status status = along("columns", params.full_w, params.left, params.w, params.x0, params.x1))
    return status;
  const bool grouped = params.phase != SM_PHASE_HEAD && params.phase != SM_PHASE_TAIL;
  if (grouped && (params.group < 0 || params.group >= m.num_layers))
    return fail(SM_ERROR_ARGUMENT, "group must lie in 0..%d, got %d", m.num_layers - 1, params.group);
  const Area area = {(int)params.h,      (int)params.w,     (int)params.y0,  (int)params.y1,
                     (int)params.x0,     (int)params.x1,    (int)params.top, (int)params.left,
                     (int)params.full_h, (int)params.full_w};
  plan = make_plan(m, *table, area, std::min(params.threads, std::max(1, area.h / kLeastBand)),
                   widest_strip(m, *table, area));
  return SM_OK;
}

}  // namespace engine
}  // namespace seemore
