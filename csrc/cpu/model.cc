// The engine's C API: packs weights for the micro-kernels, plans workspaces, starts runs.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <new>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/engine.h"
#include "cpu/pool.h"

using namespace seemore;

struct sm_engine {
  Model model;
  std::vector<Group> groups;
  std::deque<std::vector<float>> storage;  // what the pointers above point into
};

namespace {

constexpr int kMaxRecursive = 8;
constexpr int kMaxKernel = 255;
constexpr int kDefaultStrip = 320;  // columns; the widest rings of C = 48 then stay near the size of an L2
constexpr int kLeastStrip = 32;
constexpr int kLeastBand = 8;  // rows; in smaller bands threads would mostly compute each other's halo

uint32_t to_bf16(float value) {
  if (value != value) return 0x7fc0;
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest even
}

struct Packer {
  sm_engine& engine;

  float* allocate(size_t n) {
    engine.storage.emplace_back(n, 0.0f);
    return engine.storage.back().data();
  }

  const float* copy(const float* values, int n, int padded) {
    float* out = allocate(padded);
    std::copy(values, values + n, out);
    return out;
  }

  // weight(row, channel, tap) in double, for `m` rows of `k` channels.
  template <class F>
  Matrix matrix(int m, int k, int taps, const float* bias, bool bf16, F weight) {
    Matrix out;
    out.m = round_up(m, 4);
    out.k = bf16 ? (k + 1) / 2 : k;
    out.taps = taps;
    out.bias = copy(bias, m, out.m);
    float* packed = allocate((size_t)out.m * out.k * taps);
    out.weight = packed;
    auto value = [&](int row, int channel, int tap) {
      return row < m && channel < k ? (float)weight(row, channel, tap) : 0.0f;
    };
    for (int block = 0; block < out.m; block += kBlock) {
      const int rows = std::min(kBlock, out.m - block);
      for (int tap = 0; tap < taps; ++tap)
        for (int unit = 0; unit < out.k; ++unit)
          for (int row = block; row < block + rows; ++row, ++packed) {
            if (bf16) {
              const uint32_t pair =
                  to_bf16(value(row, 2 * unit, tap)) | to_bf16(value(row, 2 * unit + 1, tap)) << 16;
              memcpy(packed, &pair, 4);
            } else {
              *packed = value(row, unit, tap);
            }
          }
    }
    return out;
  }

  // A [m, k] matrix.
  Matrix dense(int m, int k, const float* w, const float* bias, bool bf16) {
    return matrix(m, k, 1, bias, bf16,
                  [&](int row, int channel, int) { return w[(size_t)row * k + channel]; });
  }

  // A [m, k, 3, 3] convolution as its nine taps.
  Matrix conv(int m, int k, const float* w, const float* bias, bool bf16) {
    return matrix(m, k, 9, bias, bf16,
                  [&](int row, int channel, int tap) { return w[((size_t)row * k + channel) * 9 + tap]; });
  }

  // The same for conv.h: rows of the kernel evaluated at Winograd's points, each a product of three taps.
  Matrix row_conv(int m, int k, const float* w, const float* bias, bool bf16) {
    const double a = std::sqrt(0.5), b = std::sqrt(2.0);
    const double four[6][3] = {{1, 0, 0},
                               {-1 / 1.5, -a / 1.5, -0.5 / 1.5},
                               {-1 / 1.5, a / 1.5, -0.5 / 1.5},
                               {1 / 6.0, b / 6, 2 / 6.0},
                               {1 / 6.0, -b / 6, 2 / 6.0},
                               {0, 0, 1}};
    const double two[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
    const double (*points)[3] = bf16 ? two : four;
    return matrix(m, k, bf16 ? 12 : 18, bias, bf16, [&](int row, int channel, int tap) {
      const float* g = w + ((size_t)row * k + channel) * 9 + tap % 3;
      const double* p = points[tap / 3];
      return p[0] * g[0] + p[1] * g[3] + p[2] * g[6];
    });
  }

  Depthwise depthwise(int channels, int padded, int taps, const float* w, const float* bias) {
    return {copy(w, channels * taps, padded * taps), copy(bias, channels, padded), taps};
  }

  Ffn ffn(const sm_ffn_weights& w, int dim, int padded, bool bf16) {
    return {dense(dim, dim, w.a, w.a_bias, bf16), dense(dim, dim, w.g, w.g_bias, bf16),
            dense(dim, dim, w.out, w.out_bias, bf16), depthwise(dim, padded, 9, w.gate, w.gate_bias)};
  }

  Group group(const sm_group_weights& w, const Model& m) {
    const int c = m.dim, p = m.padded_dim, r = m.rank_sum;
    const bool bf16 = m.bf16;
    Group g;
    g.norm_weight = copy(w.norm, c, p);
    g.norm_bias = copy(w.norm_bias, c, p);
    g.conv = row_conv(c, c, w.conv, w.conv_bias, bf16);
    g.to_x = dense(c, c, w.to_x, w.to_x_bias, bf16);
    g.to_k = dense(c, c, w.to_k, w.to_k_bias, bf16);
    g.stripe_h = depthwise(c, p, 3, w.stripe_h, w.stripe_h_bias);
    g.stripe_v = depthwise(c, p, 3, w.stripe_v, w.stripe_v_bias);
    g.proj = dense(c, c, w.proj, w.proj_bias, bf16);
    g.expert_b = dense(r, c, w.expert_b, w.expert_b_bias, bf16);
    g.expert_c = dense(r, c, w.expert_c, w.expert_c_bias, bf16);
    for (int e = 0; e < m.num_experts; ++e)
      g.expert_out[e] = matrix(
          c, m.rank[e], 1, w.expert_out_bias + e * c, false,
          [&](int row, int channel, int) { return w.expert_out[row * r + m.rank_start[e] + channel]; });
    g.aggregate = depthwise(c, p, 16, w.aggregate, w.aggregate_bias);
    g.low_conv = depthwise(c, p, 9, w.low_conv, w.low_conv_bias);
    g.low_proj = dense(r, c, w.low_proj, w.low_proj_bias, false);
    g.router = copy(w.router, m.num_experts * c, m.num_experts * c);
    g.rme_ffn = ffn(w.rme_ffn, c, p, bf16);
    g.to_q = dense(c, c, w.to_q, w.to_q_bias, bf16);
    g.to_v = dense(c, c, w.to_v, w.to_v_bias, bf16);
    g.sme_h = depthwise(c, p, m.kernel, w.sme_h, w.sme_h_bias);
    g.sme_v = depthwise(c, p, m.kernel, w.sme_v, w.sme_v_bias);
    g.sme_proj = dense(c, c, w.sme_proj, w.sme_proj_bias, bf16);
    g.sme_ffn = ffn(w.sme_ffn, c, p, bf16);
    return g;
  }
};

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

size_t low_floats(int channels, int h, int w) {
  return (size_t)channels * h * (round_up(w, kColumnAlign) + 2 * kColumnAlign);
}

Area whole_image(int h, int w) { return {h, w, 0, h, 0, w, 0, 0, h, w}; }

Plan make_plan(const Model& m, const EngineTable& table, const Area& area, int threads, int widest_strip) {
  Plan plan = {};
  plan.area = area;
  plan.padded_w = round_up(area.w, kColumnAlign);
  plan.threads = threads;
  // Strips of equal width.  They depend on the image alone, never on the threads: same bits for any number.
  const int strips = (plan.padded_w + widest_strip - 1) / widest_strip;
  plan.strip = round_up((plan.padded_w + strips - 1) / strips, 2 * kColumnAlign);
  plan.plane = (size_t)m.padded_dim * area.h * plan.padded_w;
  plan.ranks = (size_t)m.padded_rank * area.h * plan.padded_w;
  plan.sums = (size_t)((plan.padded_w + plan.strip - 1) / plan.strip) * area.h * m.padded_dim;
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

// Floats that a forward needs, and a phase of a tile, whose stream and maps are the caller's.
size_t forward_floats(const Plan& plan) {
  return plan.plane + plan.map + plan.workspace + plan.threads * plan.scratch;
}
size_t tile_floats(const Plan& plan) { return plan.workspace + plan.threads * plan.scratch; }

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

sm_status plan_for(const sm_forward_params& params, Plan& plan, const EngineTable*& table) {
  const Model& m = params.engine->model;
  if (const sm_status status = table_for(m, table)) return status;
  if (const sm_status status = check_size(m, params.h, params.w, params.threads)) return status;
  // The width of strips decides the last bits, so it must not depend on the threads: the widest that one
  // thread can have within the limit; then as many threads as there is room for.
  const Area area = whole_image((int)params.h, (int)params.w);
  const size_t limit = params.workspace_limit > 0 ? params.workspace_limit / sizeof(float) : SIZE_MAX;
  int strip = kDefaultStrip, threads = 1;
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
  plan =
      make_plan(m, *table, area, std::min(params.threads, std::max(1, area.h / kLeastBand)), kDefaultStrip);
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

}  // namespace

sm_status sm_engine_create(const sm_network* net, int bf16, sm_engine** out) {
  if (const sm_status status = check(*net)) return status;
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  if (bf16 && !isa->engine->bf16)
    return fail(SM_ERROR_UNSUPPORTED,
                "bf16 needs a CPU with AVX512-BF16 (instruction set v4bf16); in use is %s", sm_isa());
  try {
    auto engine = std::make_unique<sm_engine>();
    Model& m = engine->model;
    m.scale = net->scale;
    m.in_chans = net->in_chans;
    m.num_experts = net->num_experts;
    m.num_layers = net->num_layers;
    m.dim = net->dim;
    m.kernel = net->kernel;
    m.recursive = net->recursive;
    m.topk = net->topk;
    m.img_range = net->img_range;
    m.bf16 = bf16 != 0;
    for (int e = 0; e < m.num_experts; ++e) {
      m.rank[e] = net->ranks[e];
      m.rank_start[e] = m.rank_sum;
      m.rank_sum += net->ranks[e];
    }
    m.padded_dim = round_up(m.dim, 4);
    m.padded_rank = round_up(m.rank_sum, 4);
    Packer pack{*engine};
    m.mean = pack.copy(net->mean, m.in_chans, m.in_chans);
    m.head = pack.conv(m.dim, m.in_chans, net->head, net->head_bias, false);
    for (int i = 0; i < m.num_layers; ++i) engine->groups.push_back(pack.group(net->groups[i], m));
    m.groups = engine->groups.data();
    m.norm_weight = pack.copy(net->norm, m.dim, m.padded_dim);
    m.norm_bias = pack.copy(net->norm_bias, m.dim, m.padded_dim);
    m.conv_2 = pack.row_conv(m.dim, m.dim, net->conv_2, net->conv_2_bias, false);
    m.upsampler =
        pack.row_conv(m.in_chans * m.scale * m.scale, m.dim, net->upsampler, net->upsampler_bias, false);
    *out = engine.release();
    return SM_OK;
  } catch (const std::bad_alloc&) {
    return fail(SM_ERROR_MEMORY, "no memory for the packed weights");
  }
}

void sm_engine_destroy(sm_engine* engine) { delete engine; }

sm_status sm_engine_workspace(const sm_forward_params* params, int64_t* bytes) {
  Plan plan = {};
  const EngineTable* table;
  if (const sm_status status = plan_for(*params, plan, table)) return status;
  *bytes = forward_floats(plan) * sizeof(float);
  return SM_OK;
}

sm_status sm_engine_forward(const sm_forward_params* params) {
  Plan plan = {};
  const EngineTable* table;
  if (const sm_status status = plan_for(*params, plan, table)) return status;
  if (const sm_status status = check_workspace(forward_floats(plan), params->workspace_bytes)) return status;
  const Model& m = params->engine->model;
  const size_t element = params->u8 ? 1 : sizeof(float);
  const size_t image = (size_t)m.in_chans * params->h * params->w * element;
  for (int64_t i = 0; i < params->n; ++i) {
    Run run = {};
    run.model = &m;
    run.plan = &plan;
    run.image = {static_cast<const char*>(params->input) + i * image,
                 static_cast<char*>(params->output) + i * image * m.scale * m.scale, params->u8 != 0};
    run.stream = static_cast<float*>(params->workspace);
    run.map = run.stream + plan.plane;
    run.workspace = run.map + plan.map;
    run.scratch = run.workspace + plan.workspace;
    run.poll = params->poll;
    run.poll_context = params->poll_context;
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
