// Runs the whole network over one image, or one phase of it over a tile; compiled once per ISA.
//
// Every thread walks its band of rows through the passes, each in the header of its stage, and meets the
// others at a barrier after each; the picture is in docs/cpu-engine.md, tiles are in docs/tiling.md.
#include "cpu/engine/run.h"

#include "cpu/engine/calibrate.h"
#include "cpu/engine/ffn.h"
#include "cpu/engine/head.h"
#include "cpu/engine/mix.h"
#include "cpu/engine/rme.h"
#include "cpu/engine/route.h"
#include "cpu/engine/sme.h"
#include "cpu/engine/tail.h"
#include "cpu/engine/worker.h"
#include "cpu/isa/dispatch.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

extern const EngineTable* table();

namespace {

// From the experts on, for the inner part and `by` rows more.  Ends with a barrier.
template <class Op>
void rest_of_group(Worker& w, const Group& group, const Routing& routing, int by) {
  mix_pass<Op>(w, group, routing, w.inner(by + 1 + w.m.kernel / 2));
  w.wait();
  sme_pass<Op>(w, group, w.inner(by + 1));
  w.wait();
  ffn_pass<Op>(w, group, w.inner(by));
  w.wait();
}

template <class Op>
void network(Worker& w) {
  head_pass(w);
  w.wait();
  for (int g = 0; g < w.m.num_layers; ++g) {
    const Group& group = w.m.groups[g];
    rme_pass<Op>(w, group, {0, w.area.h}, false);
    aggregate_pass(w, group);
    calibrate_pass(w, group, w.low[w.m.recursive - 1]);
    rest_of_group<Op>(w, group, route(w, group), 0);
  }
  tail_pass(w);
}

// The pooled sums, and the tile's part of the image's aggregated map.
void hand_over(const Worker& w) {
  each_sum(w, [&](int ch, double sum) { w.run.sums[ch] = sum; });
  const LowMap& last = w.low[w.m.recursive - 1];
  const int skip = w.m.recursive == 1 ? 1 : 0, ratio = 1 << (2 * w.m.recursive);
  const int h = (w.area.y1 - w.area.y0) / ratio, columns = (w.area.x1 - w.area.x0) / ratio;
  for (int r = 0; r < h; ++r) {
    const Row from = last.row(r + skip * w.area.y0 / 4);
    const Row to = w.aggregated.row((w.area.top + w.area.y0) / ratio + r);
    for (int ch = 0; ch < w.m.padded_dim; ++ch)
      memcpy(to.at(ch, (w.area.left + w.area.x0) / ratio), from.at(ch, skip * w.area.x0 / 4),
             sizeof(float) * columns);
  }
}

// One phase of a tile.
template <class Op>
void phase(Worker& w) {
  if (w.run.phase == SM_PHASE_HEAD) return head_pass(w);
  if (w.run.phase == SM_PHASE_TAIL) return tail_pass(w);
  const Group& group = w.m.groups[w.run.group];
  if (w.run.phase == SM_PHASE_POOL) {
    rme_pass<Op>(w, group, w.inner(0), true);
    aggregate_pass(w, group);
    if (w.thread == 0) hand_over(w);
  } else if (w.run.phase == SM_PHASE_CALIBRATE) {
    calibrate_pass(w, group, w.aggregated);
  } else {
    // What follows, a 3x3 convolution in groups of rows and another kernel of three, reads up to five rows
    // beyond the inner part.
    constexpr int kBeyond = 1 + RowConv<Fp32>::kRows;
    const int mixed = kBeyond + 1 + w.m.kernel / 2;
    rme_pass<Op>(w, group, w.inner(round_up(mixed + 1, 4)), false);
    w.wait();
    rest_of_group<Op>(w, group, w.run.routing, kBeyond);
  }
}

template <class Op>
size_t largest_scratch(const Model& m, const Plan& plan) {
  Run run = {};
  run.model = &m;
  run.plan = &plan;
  if (m.num_layers == 0) return tail_scratch(run);
  const size_t each[] = {tail_scratch(run),        rme_scratch<Op>(m, plan), mix_scratch<Op>(m, plan),
                         sme_scratch<Op>(m, plan), ffn_scratch<Op>(m, plan), calibrate_scratch(m, plan)};
  size_t largest = 0;
  for (const size_t floats : each) largest = floats > largest ? floats : largest;
  return largest;
}

size_t scratch_floats(const Model& m, const Plan& plan) {
#if defined(SM_HAS_BF16)
  if (m.bf16) return largest_scratch<Bf16>(m, plan);
#endif
  return largest_scratch<Fp32>(m, plan);
}

void forward(Run& run, int thread, int threads) {
  Worker worker(run, thread, threads);
#if defined(SM_HAS_BF16)
  if (run.model->bf16) return network<Bf16>(worker);
#endif
  network<Fp32>(worker);
}

void tile(Run& run, int thread, int threads) {
  Worker worker(run, thread, threads);
#if defined(SM_HAS_BF16)
  if (run.model->bf16) return phase<Bf16>(worker);
#endif
  phase<Fp32>(worker);
}

}  // namespace

const EngineTable* table() {
#if defined(SM_HAS_BF16)
  constexpr bool kBf16 = true;
#else
  constexpr bool kBf16 = false;
#endif
  static const EngineTable table = {kBf16, scratch_floats, forward, tile};
  return &table;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
