// Runs the whole network over one image; compiled once per ISA.
//
// Every thread walks its band of rows through the passes below and meets the others at a barrier after each;
// the stages are in stages.h, the picture in docs/cpu-engine.md.
#include "engine.h"

#include "dispatch.h"
#include "pool.h"
#include "stages.h"

namespace seemore {
namespace SM_ISA {

extern const EngineTable* engine_table();

namespace {

// Rows of a stored plane set are [channels][padded_w], one row of the image after the other.
struct Plane {
  float* p;
  int channels, pitch;

  Row row(int r) const { return {p + (size_t)r * channels * pitch, pitch}; }

  // What a stage will read of row r, if there is one.
  Prefetch ahead(int r, int h, int x0, int x1) const {
    return r >= 0 && r < h ? Prefetch(row(r), channels, x0, x1) : Prefetch();
  }
};

// A low-resolution map: rows as in Plane, with kColumnAlign zero columns on either side.
struct LowMap {
  float* p;
  int channels, h, w, pitch;

  Row row(int r) const { return {p + (size_t)r * channels * pitch + kColumnAlign, pitch}; }
};

constexpr int low_pitch(int w) { return round_up(w, kColumnAlign) + 2 * kColumnAlign; }

void finish_low_row(const LowMap& map, int r) {
  zero_columns(map.row(r), map.channels, -kColumnAlign, 0);
  zero_columns(map.row(r), map.channels, map.w, map.pitch - kColumnAlign);
}

Strip strip_at(const Plan& plan, int i, int halo) {
  const int extend = round_up(halo, kColumnAlign);
  Strip s;
  s.x0 = i * plan.strip;
  s.x1 = s.x0 + plan.strip < plan.padded_w ? s.x0 + plan.strip : plan.padded_w;
  s.e0 = s.x0 - extend > 0 ? s.x0 - extend : 0;
  s.e1 = s.x1 + extend < plan.padded_w ? s.x1 + extend : plan.padded_w;
  s.w = plan.w;
  s.pad = extend + kColumnAlign;
  return s;
}

int strips(const Plan& plan) { return (plan.padded_w + plan.strip - 1) / plan.strip; }

// ---- Head and tail ---------------------------------------------------------------------------------------

// The first convolution, a row at a time; the skip connection computes it again rather than keeping it.
struct HeadStage {
  const Run& run;
  const Strip& s;
  Row image[3];
  int next;  // first row not yet in the ring

  HeadStage(Arena& arena, const Run& run_, const Strip& s_, int first) : run(run_), s(s_), next(first - 1) {
    arena.rows(image, run.model->head.k, s);
  }

  void load_row(int r) {
    const Model& m = *run.model;
    const Row& row = image[slot(r, 3)];
    zero_columns(row, m.in_chans, s.e0 - kColumnAlign, s.e1 + kColumnAlign);
    if (r < 0 || r >= run.plan->h) return;
    const int from = s.e0 - 1 > 0 ? s.e0 - 1 : 0, to = s.e1 + 1 < s.w ? s.e1 + 1 : s.w;
    for (int c = 0; c < m.in_chans; ++c) {
      const size_t offset = ((size_t)c * run.plan->h + r) * s.w;
      const float mean = m.mean[c], range = m.img_range;
      float* out = row.at(c, 0);
      if (run.image.u8) {
        const uint8_t* in = static_cast<const uint8_t*>(run.image.input) + offset;
        for (int x = from; x < to; ++x) out[x] = (in[x] * (1.0f / 255) - mean) * range;
      } else {
        const float* in = static_cast<const float*>(run.image.input) + offset;
        for (int x = from; x < to; ++x) out[x] = (in[x] - mean) * range;
      }
    }
  }

  // Rows must be asked for in ascending order.
  void row(int r, const Row& out) {
    for (; next <= r + 1; ++next) load_row(next);
    const Row in[3] = {image[slot(r - 1, 3)], image[slot(r, 3)], image[slot(r + 1, 3)]};
    matmul<Fp32, Epilogue::kStore>(run.model->head, nine_taps(in), s.e0, s.e1, out);
  }
};

// LN, second convolution, skip, upsampling convolution, PixelShuffle.
template <class Op>
struct TailStage {
  const Run& run;
  const Model& m;
  const Strip& s;
  HeadStage head;
  Row normal[4], scratch[PairConv<Op>::kRows + 1], skip[2], sum[2], features[6], pixels[2];
  int next_normal, next_features;

  TailStage(Arena& arena, const Run& run_, const Strip& s_, int first)
      : run(run_), m(*run_.model), s(s_), head(arena, run_, s_, first - 2 > 0 ? first - 2 : 0) {
    const int operand = operand_channels<Op>(m.padded_dim);
    arena.rows(normal, operand, s);
    for (int i = 0; i < PairConv<Op>::kRows; ++i) scratch[i] = arena.row(m.padded_dim, s);
    arena.rows(skip, m.padded_dim, s);
    arena.rows(sum, m.padded_dim, s);
    arena.rows(features, operand, s);
    arena.rows(pixels, m.upsampler.m, s);
    next_features = first - 2;
    next_normal = next_features - 1;
  }

  bool inside(int r) const { return r >= 0 && r < run.plan->h; }

  // Rows r and r + 1 (r even) of conv_2(norm(x)) + skip.
  void feature_pair(int r, const Plane& x) {
    const int operand = operand_channels<Op>(m.padded_dim);
    for (; next_normal <= r + 2; ++next_normal) {
      const Row& n = normal[slot(next_normal, 4)];
      if (!inside(next_normal)) {
        zero_row(n, operand, s, 1);
        continue;
      }
      layer_norm<Op>(x.row(next_normal), n, m.dim, m.padded_dim, m.norm_weight, m.norm_bias, s.e0, s.e1);
      s.mask(n, operand, 1);
    }
    if (inside(r)) {
      head.row(r, skip[0]);
      if (inside(r + 1)) head.row(r + 1, skip[1]);
      const Row in[4] = {normal[slot(r - 1, 4)], normal[slot(r, 4)], normal[slot(r + 1, 4)],
                         normal[slot(r + 2, 4)]};
      PairConv<Op>::template run<Epilogue::kResidual>(m.conv_2, in, scratch, m.padded_dim, s.e0, s.e1, sum, skip);
    }
    for (int i = 0; i < 2; ++i) {
      const Row& f = features[slot(r + i, 6)];
      if (!inside(r + i)) {
        zero_row(f, operand, s, 1);
        continue;
      }
      copy_row<Op>(sum[i], f, m.padded_dim, s.e0, s.e1);
      s.mask(f, operand, 1);
    }
  }

  // Rows r and r + 1 (r even) of the low-resolution grid, as scale rows of pixels each.
  void run_pair(int r, int r1, const Plane& x) {
    for (; next_features <= r + 2; next_features += 2) feature_pair(next_features, x);
    const Row in[4] = {features[slot(r - 1, 6)], features[slot(r, 6)], features[slot(r + 1, 6)],
                       features[slot(r + 2, 6)]};
    PairConv<Op>::template run<Epilogue::kStore>(m.upsampler, in, scratch, m.padded_dim, s.x0, s.x1, pixels,
                                                 nullptr);
    emit(r, pixels[0]);
    if (r + 1 < r1) emit(r + 1, pixels[1]);
  }

  void emit(int r, const Row& in) const {
    const int scale = m.scale, to = s.x1 < s.w ? s.x1 : s.w;
    const size_t out_w = (size_t)s.w * scale;
    for (int c = 0; c < m.in_chans; ++c)
      for (int i = 0; i < scale; ++i) {
        const float* from[1] = {in.at((c * scale + i) * scale, 0)};
        const size_t offset = (((size_t)c * run.plan->h + r) * scale + i) * out_w;
        const float mean = m.mean[c], gain = 1.0f / m.img_range;
        for (int j = 0; j < scale; ++j) {
          const float* p = from[0] + j * in.pitch;
          if (run.image.u8) {
            uint8_t* out = static_cast<uint8_t*>(run.image.output) + offset + j;
            for (int x = s.x0; x < to; ++x) out[(size_t)x * scale] = to_byte(p[x] * gain + mean);
          } else {
            float* out = static_cast<float*>(run.image.output) + offset + j;
            for (int x = s.x0; x < to; ++x) out[(size_t)x * scale] = p[x] * gain + mean;
          }
        }
      }
  }

  // Clamped, rounded to nearest even as torch.round does; NaN becomes 0.
  static uint8_t to_byte(float v) {
    v = v * 255.0f;
    v = v > 0 ? v : 0;
    v = v < 255 ? v : 255;
    return (uint8_t)__builtin_rintf(v);
  }
};

// ---- Passes ----------------------------------------------------------------------------------------------

// One thread's view of a run.
struct Worker {
  Run& run;
  const Model& m;
  const Plan& plan;
  int thread, threads;
  Plane x, y, b, c;
  LowMap low[8], map;
  float* sums;     // [strips][H][padded_dim]
  float* scratch;  // of this thread

  Worker(Run& run_, int thread_, int threads_)
      : run(run_), m(*run_.model), plan(*run_.plan), thread(thread_), threads(threads_) {
    float* p = run.workspace;
    auto plane = [&](int channels, size_t size) {
      const Plane made = {p, channels, plan.padded_w};
      p += size;
      return made;
    };
    x = plane(m.padded_dim, plan.plane);
    y = plane(m.padded_dim, plan.plane);
    b = plane(m.padded_rank, plan.ranks);
    c = plane(m.padded_rank, plan.ranks);
    for (int i = 0; i < m.recursive; ++i) {
      low[i] = {p, m.padded_dim, plan.low_h[i], plan.low_w[i], low_pitch(plan.low_w[i])};
      p += plan.low[i];
    }
    const LowMap& last = low[m.recursive - 1];
    map = {p, m.padded_rank, last.h, last.w, last.pitch};
    p += plan.low_map;
    sums = p;
    p += plan.sums;
    scratch = p + plan.scratch * thread;
  }

  // This thread's share of `rows`, in whole multiples of `align` (so the shares never depend on more).
  Band band(int rows, int align) const {
    const int64_t units = (rows + align - 1) / align;
    const int end = (int)(units * (thread + 1) / threads) * align;
    return {(int)(units * thread / threads) * align, end < rows ? end : rows, rows};
  }

  // Asks the caller whether to go on; only thread 0 asks.  True once the run is to stop.
  bool stopped() {
    if (thread == 0 && run.poll && !run.stop && run.poll(run.poll_context))
      __atomic_store_n(&run.stop, 1, __ATOMIC_RELAXED);
    return __atomic_load_n(&run.stop, __ATOMIC_RELAXED);
  }

  void wait() { run.barrier->wait(threads); }

  void head_pass() {
    const Band rows = band(plan.h, 1);
    for (int i = 0; i < strips(plan); ++i) {
      Strip s = strip_at(plan, i, 0);
      Arena arena = {scratch, 0};
      HeadStage head(arena, run, s, rows.r0);
      for (int r = rows.r0; r < rows.r1 && !stopped(); ++r) head.row(r, x.row(r));
    }
  }

  template <class Op>
  void rme_pass(const Group& group, const Plane& in, const Plane& out) {
    const Band rows = band(plan.h, 4);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 2);
      Arena arena = {scratch, 0};
      RmeStage<Op> stage(arena, group, s, m);
      const int first = rows.r0 > 0 ? rows.r0 - 2 : 0;
      int next = first - 1;
      if (rows.r0 == 0) stage.x_half(-1, false, Prefetch());
      for (int pair = first; pair <= rows.r1 && !stopped(); pair += 2) {
        for (; next <= pair + 2; ++next) {
          if (next < 0 || next >= plan.h) {
            stage.feed(next, nullptr);
          } else {
            const Row row = in.row(next);
            stage.feed(next, &row);
          }
        }
        if (pair < plan.h) stage.convolve(pair);
        for (int r = pair; r < pair + 2; ++r) {
          if (r < rows.r0 - 1 || r > rows.r1) continue;
          stage.x_half(r, r < plan.h, in.ahead(r + 4, plan.h, s.e0, s.e1));
          if (r >= rows.r0 && r < rows.r1) {
            const int low_r = r / 4;
            stage.k_half(r, c.row(r), low_r < low[0].h ? low[0].row(low_r) : Row(), low[0].w);
            if ((r & 3) == 3 && i + 1 == strips(plan)) finish_low_row(low[0], low_r);
          }
          const int q = r - 1;
          if (q >= rows.r0 && q < rows.r1) {
            float* row_sums = sums + ((size_t)i * plan.h + q) * m.padded_dim;
            stage.finish(q, in.row(q), {out.row(q), b.row(q), c.row(q), row_sums});
          }
        }
      }
    }
  }

  // The rest of the calibration at low resolution; ends with every thread past a barrier.
  void low_pass(const Group& group) {
    wait();
    for (int level = 1; level < m.recursive; ++level) {
      const Band rows = band(low[level].h, 1);
      for (int r = rows.r0; r < rows.r1; ++r) {
        const Row in[4] = {low[level - 1].row(4 * r), low[level - 1].row(4 * r + 1), low[level - 1].row(4 * r + 2),
                           low[level - 1].row(4 * r + 3)};
        aggregate_row(group.aggregate, in, low[level].row(r), m.padded_dim, 0, low[level].w);
        finish_low_row(low[level], r);
      }
      wait();
    }
    const LowMap& last = low[m.recursive - 1];
    const Strip s = {0, round_up(last.w, kColumnAlign), 0, 0, last.w, kColumnAlign};
    Arena arena = {scratch, 0};
    const Row zero = arena.row(m.padded_dim, s), mixed = arena.row(m.padded_dim, s);
    zero_columns(zero, m.padded_dim, -kColumnAlign, s.x1 + kColumnAlign);
    const Band rows = band(last.h, 1);
    for (int r = rows.r0; r < rows.r1; ++r) {
      const Row in[3] = {r > 0 ? last.row(r - 1) : zero, last.row(r), r + 1 < last.h ? last.row(r + 1) : zero};
      put_row<Fp32>(mixed, m.padded_dim, 0, s.x1, [&]<int N>(vf(&acc)[N], int ch, int at) SM_LAMBDA_INLINE {
        depthwise_3x3(group.low_conv, in, acc, ch, at);
      });
      matmul<Fp32, Epilogue::kStore>(group.low_proj, one_tap(mixed), 0, s.x1, map.row(r));
      finish_low_row(map, r);
    }
    wait();
  }

  // Every thread computes it for itself, in the same order: no barrier, same bits.
  Routing route(const Group& group) const {
    double logits[kMaxExperts] = {};
    for (int ch = 0; ch < m.dim; ++ch) {
      double sum = 0;
      for (int i = 0; i < strips(plan); ++i)
        for (int r = 0; r < plan.h; ++r) sum += sums[((size_t)i * plan.h + r) * m.padded_dim + ch];
      const double mean = sum / ((double)plan.h * plan.w);
      for (int e = 0; e < m.num_experts; ++e) logits[e] += mean * group.router[e * m.dim + ch];
    }
    double largest = logits[0], total = 0, exponential[kMaxExperts];
    for (int e = 1; e < m.num_experts; ++e) largest = logits[e] > largest ? logits[e] : largest;
    for (int e = 0; e < m.num_experts; ++e) total += exponential[e] = __builtin_exp(logits[e] - largest);
    Routing routing = {};
    bool taken[kMaxExperts] = {};
    for (; routing.count < m.topk; ++routing.count) {
      int best = -1;
      for (int e = 0; e < m.num_experts; ++e)
        if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
      taken[best] = true;
      routing.expert[routing.count] = best;
      routing.weight[routing.count] = (float)(exponential[best] / total);
    }
    return routing;
  }

  template <class Op>
  void mix_pass(const Group& group, const Plane& in, const Plane& out) {
    const Band rows = band(plan.h, 1);
    const Routing routing = route(group);
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 1);
      Arena arena = {scratch, 0};
      MixStage mix(arena, group, s, m, routing, map.w);
      Row mixed[2];
      arena.rows(mixed, m.padded_dim, s);
      FfnStage<Op> ffn(arena, group.rme_ffn, s, m);
      mix.prepare();
      for (int r = rows.r0 - 1; r <= rows.r1 && !stopped(); ++r) {
        const bool inside = r >= 0 && r < plan.h;
        const Row& row = mixed[r & 1];
        if (inside)
          mix.run(r, plan.h, map.row(0), (ptrdiff_t)map.channels * map.pitch, map.h, in.row(r), b.row(r), c.row(r),
                  row);
        ffn.feed(r, inside ? &row : nullptr, in.ahead(r + 1, plan.h, s.e0, s.e1));
        if (r > rows.r0) ffn.finish(r - 1, mixed[(r - 1) & 1], out.row(r - 1));
      }
    }
  }

  template <class Op>
  void sme_pass(const Group& group, const Plane& in, const Plane& out) {
    const Band rows = band(plan.h, 1);
    const int half = m.kernel / 2;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, half);
      Arena arena = {scratch, 0};
      SmeStage<Op> stage(arena, group, s, m);
      for (int r = rows.r0 - half; r < rows.r1 + half && !stopped(); ++r) {
        if (r < 0 || r >= plan.h) {
          stage.feed(r, nullptr, false, Prefetch());
        } else {
          const Row row = in.row(r);
          stage.feed(r, &row, r >= rows.r0 && r < rows.r1, in.ahead(r + 1, plan.h, s.e0, s.e1));
        }
        const int q = r - half;
        if (q >= rows.r0) stage.finish(q, in.row(q), out.row(q));
      }
    }
  }

  template <class Op>
  void ffn_pass(const Group& group, const Plane& in, const Plane& out) {
    const Band rows = band(plan.h, 1);
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 1);
      Arena arena = {scratch, 0};
      FfnStage<Op> ffn(arena, group.sme_ffn, s, m);
      for (int r = rows.r0 - 1; r <= rows.r1 && !stopped(); ++r) {
        if (r < 0 || r >= plan.h) {
          ffn.feed(r, nullptr, Prefetch());
        } else {
          const Row row = in.row(r);
          ffn.feed(r, &row, in.ahead(r + 1, plan.h, s.e0, s.e1));
        }
        if (r > rows.r0) ffn.finish(r - 1, in.row(r - 1), out.row(r - 1));
      }
    }
  }

  template <class Op>
  void tail_pass() {
    const Band rows = band(plan.h, 4);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 2);
      Arena arena = {scratch, 0};
      TailStage<Op> tail(arena, run, s, rows.r0);
      for (int r = rows.r0; r < rows.r1 && !stopped(); r += 2) tail.run_pair(r, rows.r1, x);
    }
  }

  template <class Op>
  void network() {
    head_pass();
    wait();
    for (int g = 0; g < m.num_layers; ++g) {
      const Group& group = m.groups[g];
      rme_pass<Op>(group, x, y);
      low_pass(group);
      mix_pass<Op>(group, y, x);
      wait();
      sme_pass<Op>(group, x, y);
      wait();
      ffn_pass<Op>(group, y, x);
      wait();
    }
    tail_pass<Op>();
  }
};

template <class Op>
size_t largest_scratch(const Run& run) {
  const Model& m = *run.model;
  const Plan& plan = *run.plan;
  const Strip one = strip_at(plan, 0, 2), ffn = strip_at(plan, 0, 1), sme = strip_at(plan, 0, m.kernel / 2);
  size_t largest = 0;
  auto keep = [&](const Arena& arena) { largest = arena.used > largest ? arena.used : largest; };
  {
    Arena arena = {};
    TailStage<Op> stage(arena, run, one, 0);
    keep(arena);
  }
  if (m.num_layers == 0) return largest;
  const Group& group = m.groups[0];
  const int low_w = plan.low_w[m.recursive - 1];
  {
    Arena arena = {};
    RmeStage<Op> stage(arena, group, one, m);
    keep(arena);
  }
  {
    Arena arena = {};
    const Routing routing = {};
    Row mixed[2];
    MixStage mix(arena, group, ffn, m, routing, low_w);
    arena.rows(mixed, m.padded_dim, ffn);
    FfnStage<Op> stage(arena, group.rme_ffn, ffn, m);
    keep(arena);
  }
  {
    Arena arena = {};
    SmeStage<Op> stage(arena, group, sme, m);
    keep(arena);
  }
  {
    Arena arena = {};
    const Strip low = {0, round_up(low_w, kColumnAlign), 0, 0, low_w, kColumnAlign};
    arena.row(2 * m.padded_dim, low);
    keep(arena);
  }
  return largest;
}

size_t scratch_floats(const Model& m, const Plan& plan) {
  Run run = {};
  run.model = &m;
  run.plan = &plan;
#if defined(__AVX512BF16__)
  if (m.bf16) return largest_scratch<Bf16>(run);
#endif
  return largest_scratch<Fp32>(run);
}

void run_network(Run& run, int thread, int threads) {
  Worker worker(run, thread, threads);
#if defined(__AVX512BF16__)
  if (run.model->bf16) return worker.network<Bf16>();
#endif
  worker.network<Fp32>();
}

}  // namespace

const EngineTable* engine_table() {
#if defined(__AVX512BF16__)
  constexpr bool kBf16 = true;
#else
  constexpr bool kBf16 = false;
#endif
  static const EngineTable table = {kBf16, scratch_floats, run_network};
  return &table;
}

}  // namespace SM_ISA
}  // namespace seemore
