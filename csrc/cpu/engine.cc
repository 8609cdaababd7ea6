// Runs the whole network over one image; compiled once per ISA.
//
// Every thread walks its band of rows through the passes below and meets the others at a barrier after each;
// the stages are in stages.h, the picture in docs/cpu-engine.md.
#include "engine.h"

#include "dispatch.h"
#include "ends.h"
#include "planes.h"
#include "pool.h"
#include "stages.h"

namespace seemore {
namespace SM_ISA {

extern const EngineTable* engine_table();

namespace {

// ---- Passes ----------------------------------------------------------------------------------------------

// A thread's share of the rows.
struct Band {
  int r0, r1;
};

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
    return {(int)(units * thread / threads) * align, end < rows ? end : rows};
  }

  bool inside(int r) const { return r >= 0 && r < plan.h; }

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
    const Band rows = band(plan.h, 2);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 2);
      Arena arena = {scratch, 0};
      RmeStage<Op> stage(arena, group, s, m);
      constexpr int kRows = RowConv<Op>::kRows;
      const int first = rows.r0 > 0 ? (rows.r0 - 1) / kRows * kRows : 0;
      int next = first - 1;
      if (rows.r0 == 0) stage.x_half(-1, false);
      for (int base = first; base <= rows.r1 && !stopped(); base += kRows) {
        for (; next <= base + kRows; ++next) {
          const Row row = in.row(next);
          stage.feed(next, inside(next) ? &row : nullptr);
        }
        if (inside(base))
          stage.convolve(base, [&](int from, int to) {
            for (int r = next; r < next + kRows && r < plan.h; ++r)
              fetch_columns(in.row(r), 0, m.padded_dim, from, to);
          });
        for (int r = base; r < base + kRows && r <= rows.r1; ++r) rme_row(stage, r, rows, i, in, out);
      }
    }
  }

  // What follows the convolution in row r of strip i.
  template <class Op>
  void rme_row(RmeStage<Op>& stage, int r, Band rows, int i, const Plane& in, const Plane& out) {
    if (r >= rows.r0 - 1) stage.x_half(r, inside(r));
    if (r >= rows.r0 && r < rows.r1) {
      stage.k_half(r, c.row(r));
      if ((r & 3) == 3) {
        stage.aggregate(low[0].row(r / 4), low[0].w);
        if (i + 1 == strips(plan)) finish_low_row(low[0], r / 4);
      }
    } else if (r < rows.r0 && (rows.r0 & 3) == 2) {
      // Four rows make one of the aggregated map; the thread of the last has them all: a band that starts
      // amid four begins with the two before it.
      stage.k_row(r);
    }
    const int q = r - 1;
    if (q >= rows.r0 && q < rows.r1)
      stage.finish(q, in.row(q), {out.row(q), b.row(q), sums + ((size_t)i * plan.h + q) * m.padded_dim});
  }

  // The rest of the calibration at low resolution; ends with every thread past a barrier.
  void low_pass(const Group& group) {
    wait();
    for (int level = 1; level < m.recursive; ++level) {
      const Band rows = band(low[level].h, 1);
      for (int r = rows.r0; r < rows.r1; ++r) {
        const Row in[4] = {low[level - 1].row(4 * r), low[level - 1].row(4 * r + 1),
                           low[level - 1].row(4 * r + 2), low[level - 1].row(4 * r + 3)};
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
      const Row in[3] = {r > 0 ? last.row(r - 1) : zero, last.row(r),
                         r + 1 < last.h ? last.row(r + 1) : zero};
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
    if (rows.r0 >= rows.r1) return;
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
        const bool done = r > rows.r0;
        const Row& row = mixed[r & 1];
        if (inside(r)) {
          const Row yp = in.row(r), br = b.row(r), cr = c.row(r);
          mix.begin_row(r, plan.h, map.row(0), (ptrdiff_t)map.channels * map.pitch, map.h);
          ffn.feed(r, row, [&](int from, int to) { mix.columns(from, to, yp, br, cr, row); });
        } else {
          ffn.feed_outside(r);
        }
        if (done) ffn.finish(r - 1, mixed[(r - 1) & 1], out.row(r - 1));
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
      int next = rows.r0 - half;
      for (int r = rows.r0; r < rows.r1 && !stopped(); r += 2) {
        const int count = r + 1 < rows.r1 ? 2 : 1;
        for (; next < r + count + half; ++next) {
          const Row row = in.row(next);
          stage.feed(next, inside(next) ? &row : nullptr, next >= rows.r0 && next < rows.r1);
        }
        const Row residual[2] = {in.row(r), in.row(r + 1)}, results[2] = {out.row(r), out.row(r + 1)};
        stage.finish(r, count, residual, results);
      }
    }
  }

  template <class Op>
  void ffn_pass(const Group& group, const Plane& in, const Plane& out) {
    const Band rows = band(plan.h, 1);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 1);
      Arena arena = {scratch, 0};
      FfnStage<Op> ffn(arena, group.sme_ffn, s, m);
      for (int r = rows.r0 - 1; r <= rows.r1 && !stopped(); ++r) {
        const bool done = r > rows.r0;
        if (inside(r))
          ffn.feed(r, in.row(r), [](int, int) {});
        else
          ffn.feed_outside(r);
        if (done) ffn.finish(r - 1, in.row(r - 1), out.row(r - 1));
      }
    }
  }

  // In fp32 even in bf16 mode: nothing after it evens out the last two convolutions' rounding.
  void tail_pass() {
    const Band rows = band(plan.h, 2);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 2);
      Arena arena = {scratch, 0};
      constexpr int kRows = RowConv<Fp32>::kRows;
      const int first = rows.r0 / kRows * kRows;
      TailStage tail(arena, run, s, first);
      for (int r = first; r < rows.r1 && !stopped(); r += kRows) tail.run_group(r, rows.r0, rows.r1, x);
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
    tail_pass();
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
    TailStage stage(arena, run, one, 0);
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
