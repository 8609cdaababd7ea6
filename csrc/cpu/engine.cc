// Runs the whole network over one image, or one phase of it over a tile; compiled once per ISA.
//
// Every thread walks its band of rows through the passes below and meets the others at a barrier after each;
// the stages are in stages.h, the picture in docs/cpu-engine.md, tiles in docs/tiling.md.
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

// One thread's view of a run.
struct Worker {
  Run& run;
  const Model& m;
  const Plan& plan;
  const Area& area;
  int thread, threads;
  Plane x, b, c;
  Plane above, below, kept[2];  // copies of parts of x, see Former
  LowMap low[8], aggregated, map;
  float* sums;     // [strips][H][padded_dim]
  float* scratch;  // of this thread

  Worker(Run& run_, int thread_, int threads_)
      : run(run_),
        m(*run_.model),
        plan(*run_.plan),
        area(plan.area),
        thread(thread_),
        threads(threads_),
        scratch(run.scratch + plan.scratch * thread) {
    float* p = run.workspace;
    auto plane = [&](int channels, size_t size) {
      const Plane made = {p, channels, plan.padded_w};
      p += size;
      return made;
    };
    x = {run.stream, m.padded_dim, plan.padded_w};
    b = plane(m.padded_rank, plan.ranks);
    c = plane(m.padded_rank, plan.ranks);
    for (int i = 0; i < m.recursive; ++i) {
      low[i] = {p, m.padded_dim, plan.low_h[i], plan.low_w[i], low_pitch(plan.low_w[i])};
      p += plan.low[i];
    }
    sums = p;
    p += plan.sums;
    for (Plane& half : kept) {
      half = {p, m.padded_dim, halo_columns(m.kernel)};
      p += plan.columns / 2;
    }
    p += plan.border * thread;
    above = {p, m.padded_dim, plan.padded_w};
    below = {p + plan.border / 2, m.padded_dim, plan.padded_w};
    const int pitch = low_pitch(plan.map_w);
    aggregated = {run.aggregated, m.padded_dim, plan.map_h, plan.map_w, pitch};
    map = {run.map, m.padded_rank, plan.map_h, plan.map_w, pitch};
  }

  // This thread's share of `rows`, in whole multiples of `align` (so the shares never depend on more).
  Band band(Band rows, int align) const {
    const int64_t units = (rows.r1 - rows.r0 + align - 1) / align;
    const int from = rows.r0 + (int)(units * thread / threads) * align;
    const int to = rows.r0 + (int)(units * (thread + 1) / threads) * align;
    return {from, to < rows.r1 ? to : rows.r1};
  }

  // The inner part of the area, and `by` rows more on either side.
  Band inner(int by) const {
    return {area.y0 - by > 0 ? area.y0 - by : 0, area.y1 + by < area.h ? area.y1 + by : area.h};
  }

  bool inside(int r) const { return r >= 0 && r < area.h; }

  // Asks the caller whether to go on; only thread 0 asks.  True once the run is to stop.
  bool stopped() {
    if (thread == 0 && run.poll && !run.stop && run.poll(run.poll_context))
      __atomic_store_n(&run.stop, 1, __ATOMIC_RELAXED);
    return __atomic_load_n(&run.stop, __ATOMIC_RELAXED);
  }

  void wait() { run.barrier->wait(threads); }

  // The stream for a pass that overwrites `rows` of it.  With a barrier.
  Former former(Band rows) {
    const int reach = threads > 1 ? reach_of(m.kernel) : 0;
    const Former stream = {x, rows, above, below, {kept[0], kept[1]}, reach};
    stream.copy_borders(area.h);
    wait();
    return stream;
  }

  void head_pass() {
    const Band rows = band({0, area.h}, 1);
    for (int i = 0; i < strips(plan); ++i) {
      Strip s = strip_at(plan, i, 0);
      Arena arena = {scratch, 0};
      HeadStage head(arena, run, s, rows.r0);
      for (int r = rows.r0; r < rows.r1 && !stopped(); ++r) head.row(r, x.row(r));
    }
  }

  // The first half, up to the barrier, or its sums and aggregation only.  `range` begins with an even row.
  template <class Op>
  void rme_pass(const Group& group, Band range, bool sums_only) {
    const Band rows = band(range, 2);
    // Where nothing is written, nothing needs to be kept.
    const Former stream = sums_only ? Former{x, {0, 0}, x, x, {x, x}, 0} : former(rows);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 2);
      Arena arena = {scratch, 0};
      RmeStage<Op> stage(arena, group, s, m);
      constexpr int kRows = RowConv<Op>::kRows;
      static_assert(kRows + 1 <= kConvReach);
      const int first = rows.r0 > 0 ? (rows.r0 - 1) / kRows * kRows : 0;
      int next = first - 1;
      if (rows.r0 == 0) stage.x_half(-1, false);
      for (int base = first; base <= rows.r1 && !stopped(); base += kRows) {
        for (; next <= base + kRows; ++next) {
          if (!inside(next)) {
            stage.feed(next, nullptr);
            continue;
          }
          const InputRow row = stream.take(next, i, s);
          stage.feed(next, &row);
        }
        if (inside(base))
          stage.convolve(base, [&](int from, int to) {
            for (int r = next; r < next + kRows && r < area.h; ++r)
              fetch_columns(x.row(r), 0, m.padded_dim, from, to);
          });
        for (int r = base; r < base + kRows && r <= rows.r1; ++r) rme_row(stage, r, rows, i, sums_only);
      }
    }
  }

  // What follows the convolution in row r of strip i.
  template <class Op>
  void rme_row(RmeStage<Op>& stage, int r, Band rows, int i, bool sums_only) {
    if (r >= rows.r0 - 1) stage.x_half(r, inside(r));
    if (r >= rows.r0 && r < rows.r1) {
      if (sums_only)
        stage.k_row(r);
      else
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
    if (q < rows.r0 || q >= rows.r1) return;
    RmeOutputs results = {{}, {}, sums + ((size_t)i * area.h + q) * m.padded_dim, area.x0, area.x1};
    if (!sums_only) results.yp = x.row(q), results.b = b.row(q);
    stage.finish(q, x.row(q), results);
  }

  // The further aggregations, of the area's inner part.  Starts and ends with a barrier.
  void aggregate_pass(const Group& group) {
    wait();
    for (int level = 1; level < m.recursive; ++level) {
      // The first map is the whole area's.
      const int y = level == 1 ? area.y0 / 4 : 0, x = level == 1 ? area.x0 / 4 : 0;
      const Band rows = band({0, low[level].h}, 1);
      for (int r = rows.r0; r < rows.r1; ++r) {
        Row in[4];
        for (int i = 0; i < 4; ++i) {
          in[i] = low[level - 1].row(y + 4 * r + i);
          in[i].p += x;
        }
        aggregate_row<Fp32>(group.aggregate, in, low[level].row(r), m.padded_dim, 0, low[level].w);
        finish_low_row(low[level], r);
      }
      wait();
    }
  }

  // The rest of the calibration at low resolution.  Ends with a barrier.
  void calibrate_pass(const Group& group, const LowMap& last) {
    const Strip s = {0, round_up(last.w, kColumnAlign), 0, 0, last.w, kColumnAlign};
    Arena arena = {scratch, 0};
    const Row zero = arena.row(m.padded_dim, s), mixed = arena.row(m.padded_dim, s);
    zero_columns(zero, m.padded_dim, -kColumnAlign, s.x1 + kColumnAlign);
    const Band rows = band({0, last.h}, 1);
    for (int r = rows.r0; r < rows.r1; ++r) {
      const Row in[3] = {r > 0 ? last.row(r - 1) : zero, last.row(r),
                         r + 1 < last.h ? last.row(r + 1) : zero};
      put_row<Fp32>(mixed, m.padded_dim, 0, s.x1,
                    [&]<int N>(vf(&acc)[2][N], int ch, int at)
                        SM_LAMBDA_INLINE { depthwise_3x3<Fp32>(group.low_conv, in, acc, ch, at); });
      matmul<Fp32, Epilogue::kStore>(group.low_proj, one_tap(mixed), 0, s.x1, map.row(r));
      finish_low_row(map, r);
    }
    wait();
  }

  // Of the area's inner part, in an order that does not depend on the threads.
  double sum_of(int ch) const {
    double sum = 0;
    for (int i = 0; i < strips(plan); ++i)
      for (int r = area.y0; r < area.y1; ++r) sum += sums[((size_t)i * area.h + r) * m.padded_dim + ch];
    return sum;
  }

  // Every thread computes it for itself, in the same order: no barrier, same bits.
  Routing route(const Group& group) const {
    double logits[kMaxExperts] = {};
    for (int ch = 0; ch < m.dim; ++ch) {
      const double mean = sum_of(ch) / ((double)area.h * area.w);
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
  void mix_pass(const Group& group, const Routing& routing, Band range) {
    const Band rows = band(range, 1);
    const Former stream = former(rows);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 1);
      Arena arena = {scratch, 0};
      MixStage mix(arena, group, s, m, routing, plan);
      Row mixed[2];
      arena.rows(mixed, m.padded_dim, s);
      FfnStage<Op> ffn(arena, group.rme_ffn, s, m);
      mix.prepare();
      for (int r = rows.r0 - 1; r <= rows.r1 && !stopped(); ++r) {
        const bool done = r > rows.r0;
        const Row& row = mixed[r & 1];
        if (inside(r)) {
          const InputRow yp = stream.take(r, i, s);
          const Row br = b.row(r), cr = c.row(r);
          mix.begin_row(r, map.row(0), (ptrdiff_t)map.channels * map.pitch);
          ffn.feed(r, {row, row}, [&](int from, int to) {
            mix.columns(from, to, from < s.x0 ? yp.left : yp.row, br, cr, row);
          });
        } else {
          ffn.feed_outside(r);
        }
        if (done) ffn.finish(r - 1, mixed[(r - 1) & 1], x.row(r - 1));
      }
    }
  }

  template <class Op>
  void sme_pass(const Group& group, Band range) {
    const Band rows = band(range, 1);
    const Former stream = former(rows);
    const int half = m.kernel / 2;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, half);
      Arena arena = {scratch, 0};
      SmeStage<Op> stage(arena, group, s, m);
      int next = rows.r0 - half;
      for (int r = rows.r0; r < rows.r1 && !stopped(); r += 2) {
        const int count = r + 1 < rows.r1 ? 2 : 1;
        for (; next < r + count + half; ++next) {
          if (!inside(next)) {
            stage.feed(next, nullptr, false);
            continue;
          }
          const InputRow row = stream.take(next, i, s);
          stage.feed(next, &row, stream.own(next));
        }
        const Row results[2] = {x.row(r), x.row(r + 1)};
        stage.finish(r, count, results);
      }
    }
  }

  template <class Op>
  void ffn_pass(const Group& group, Band range) {
    const Band rows = band(range, 1);
    const Former stream = former(rows);
    if (rows.r0 >= rows.r1) return;
    for (int i = 0; i < strips(plan); ++i) {
      const Strip s = strip_at(plan, i, 1);
      Arena arena = {scratch, 0};
      FfnStage<Op> ffn(arena, group.sme_ffn, s, m);
      for (int r = rows.r0 - 1; r <= rows.r1 && !stopped(); ++r) {
        const bool done = r > rows.r0;
        if (inside(r))
          ffn.feed(r, stream.take(r, i, s), [](int, int) {});
        else
          ffn.feed_outside(r);
        if (done) ffn.finish(r - 1, x.row(r - 1), x.row(r - 1));
      }
    }
  }

  // In fp32 even in bf16 mode: nothing after it evens out the last two convolutions' rounding.
  void tail_pass() {
    const Band rows = band(inner(0), 2);
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
      rme_pass<Op>(group, {0, area.h}, false);
      aggregate_pass(group);
      calibrate_pass(group, low[m.recursive - 1]);
      rest_of_group<Op>(group, route(group), 0);
    }
    tail_pass();
  }

  // From the experts on, for the inner part and `by` rows more.  Ends with a barrier.
  template <class Op>
  void rest_of_group(const Group& group, const Routing& routing, int by) {
    mix_pass<Op>(group, routing, inner(by + 1 + m.kernel / 2));
    wait();
    sme_pass<Op>(group, inner(by + 1));
    wait();
    ffn_pass<Op>(group, inner(by));
    wait();
  }

  // One phase of a tile.
  template <class Op>
  void tile() {
    if (run.phase == SM_PHASE_HEAD) return head_pass();
    if (run.phase == SM_PHASE_TAIL) return tail_pass();
    const Group& group = m.groups[run.group];
    if (run.phase == SM_PHASE_POOL) {
      rme_pass<Op>(group, inner(0), true);
      aggregate_pass(group);
      if (thread == 0) hand_over();
    } else if (run.phase == SM_PHASE_CALIBRATE) {
      calibrate_pass(group, aggregated);
    } else {
      // What follows, a 3x3 convolution in groups of rows and another kernel of three, reads up to five rows
      // beyond the inner part.
      constexpr int kBeyond = 1 + RowConv<Fp32>::kRows;
      const int mixed = kBeyond + 1 + m.kernel / 2;
      rme_pass<Op>(group, inner(round_up(mixed + 1, 4)), false);
      wait();
      rest_of_group<Op>(group, run.routing, kBeyond);
    }
  }

  // The pooled sums, and the tile's part of the image's aggregated map.
  void hand_over() const {
    for (int ch = 0; ch < m.dim; ++ch) run.sums[ch] = sum_of(ch);
    const LowMap& last = low[m.recursive - 1];
    const int skip = m.recursive == 1 ? 1 : 0, ratio = 1 << (2 * m.recursive);
    const int h = (area.y1 - area.y0) / ratio, w = (area.x1 - area.x0) / ratio;
    for (int r = 0; r < h; ++r) {
      const Row from = last.row(r + skip * area.y0 / 4);
      const Row to = aggregated.row((area.top + area.y0) / ratio + r);
      for (int ch = 0; ch < m.padded_dim; ++ch)
        memcpy(to.at(ch, (area.left + area.x0) / ratio), from.at(ch, skip * area.x0 / 4), sizeof(float) * w);
    }
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
  {
    Arena arena = {};
    RmeStage<Op> stage(arena, group, one, m);
    keep(arena);
  }
  {
    Arena arena = {};
    const Routing routing = {};
    Row mixed[2];
    MixStage mix(arena, group, ffn, m, routing, plan);
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
    const Strip low = {0, round_up(plan.map_w, kColumnAlign), 0, 0, plan.map_w, kColumnAlign};
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

void forward(Run& run, int thread, int threads) {
  Worker worker(run, thread, threads);
#if defined(__AVX512BF16__)
  if (run.model->bf16) return worker.network<Bf16>();
#endif
  worker.network<Fp32>();
}

void tile(Run& run, int thread, int threads) {
  Worker worker(run, thread, threads);
#if defined(__AVX512BF16__)
  if (run.model->bf16) return worker.tile<Bf16>();
#endif
  worker.tile<Fp32>();
}

}  // namespace

const EngineTable* engine_table() {
#if defined(__AVX512BF16__)
  constexpr bool kBf16 = true;
#else
  constexpr bool kBf16 = false;
#endif
  static const EngineTable table = {kBf16, scratch_floats, forward, tile};
  return &table;
}

}  // namespace SM_ISA
}  // namespace seemore
