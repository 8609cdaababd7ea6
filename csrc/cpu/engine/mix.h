// RME after the pooling barrier: the chosen experts, and its feed-forward.
#pragma once

#include "cpu/engine/ffn.h"
#include "cpu/engine/worker.h"
#include "cpu/rows/gemm.h"
#include "cpu/rows/resize.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

struct MixStage {
  const Group& group;
  const Model& m;
  const Strip& s;
  const Routing& routing;
  const Plan& plan;
  int first_low;    // column of the map that `vertical` begins with
  Row vertical;     // one low-resolution row between two of the map
  Row z;            // w_e (B x) * (C k + up)
  Row left, right;  // bilinear source columns (left as int32), weight of the right one
  Row bias;         // w_e P a_e

  MixStage(Arena& arena, const Group& group_, const Strip& s_, const Model& m_, const Routing& routing_,
           const Plan& plan_)
      : group(group_), m(m_), s(s_), routing(routing_), plan(plan_) {
    first_low = tap(0).low / kColumnAlign * kColumnAlign;
    const int last = tap(s.w - 1).low + 1 < plan.map_w ? tap(s.w - 1).low + 1 : plan.map_w - 1;
    // pick() reads VL columns.
    vertical = arena.row(m.padded_rank, round_up(last + 1 - first_low + VL, kColumnAlign));
    bias = arena.row(1, round_up(m.padded_dim, kColumnAlign));
    z = arena.chunk(m.padded_rank);
    left = arena.row(1, s);
    right = arena.row(1, s);
  }

  void prepare() {
    for (int x = s.e0; x < s.e1; ++x) {
      const Tap2 at = tap(x < s.w ? x : s.w - 1);
      const int column = at.low - first_low;
      memcpy(left.at(0, x), &column, 4);
      *right.at(0, x) = at.weight;
    }
  }

  // The chosen experts' rows of the image's low-resolution map (rows `map_row` floats apart) at row r.
  void begin_row(int r, const Row& map, ptrdiff_t map_row) {
    const Tap2 tap = bilinear_tap(plan.area.top + r, plan.map_h, plan.area.full_h);
    const Row above = {map.p + first_low + tap.low * map_row, map.pitch};
    const Row below = {tap.weight > 0 ? above.p + map_row : above.p, map.pitch};
    for (int i = 0; i < routing.count; ++i)
      for (int j = first(i); j < first(i) + rank(i); ++j)
        for (int x = 0; x < vertical.pitch; x += VL) {
          const vf top = load(above.at(j, x));
          store(vertical.at(j, x), top + (load(below.at(j, x)) - top) * tap.weight);
        }
  }

  // Columns [from, to) of that row: out = yp + the chosen experts.
  void columns(int from, int to, const Row& yp, const Row& b, const Row& c, const Row& out) {
    fetch_columns(yp, 0, m.padded_dim, to,
                  to + kChunk);  // the next ones, while the products of these are made
    for (int i = 0; i < routing.count; ++i) {
      const float weight = routing.weight[i];
      fetch_columns(b, first(i), rank(i), to, to + kChunk);
      fetch_columns(c, first(i), rank(i), to, to + kChunk);
      for (int j = 0; j < rank(i); ++j) {
        const int channel = first(i) + j;
        const float* v = vertical.at(channel, 0);
        for (int x = from; x < to; x += VL) {
          vi index;
          memcpy(&index, left.at(0, x), sizeof index);
          const vf near = pick(v, index), far = pick(v + 1, index);
          const vf up = near + (far - near) * load(right.at(0, x));
          store(z.at(j, x - from), load(b.at(channel, x)) * (load(c.at(channel, x)) + up) * weight);
        }
      }
      Matrix a = group.expert_out[routing.expert[i]];
      for (int j = 0; j < a.m; ++j) *bias.at(0, j) = a.bias[j] * weight;
      a.bias = bias.p;
      matmul<Fp32, Epilogue::kResidual>(a, one_tap(z.window(from)), from, to, out, i ? out : yp);
    }
  }

 private:
  Tap2 tap(int x) const { return bilinear_tap(plan.area.left + x, plan.map_w, plan.area.full_w); }
  int first(int i) const { return m.rank_start[routing.expert[i]]; }
  int rank(int i) const { return m.rank[routing.expert[i]]; }
};

template <class Op>
void mix_pass(Worker& w, const Group& group, const Routing& routing, Band range) {
  const Band rows = w.band(range, 1);
  const StreamInput stream = w.stream_input(rows);
  if (rows.r0 >= rows.r1) return;
  for (int i = 0; i < strips(w.plan); ++i) {
    const Strip s = strip_at(w.plan, i, FfnStage<Op>::kHalo);
    Arena arena = {w.scratch, 0};
    MixStage mix(arena, group, s, w.m, routing, w.plan);
    Row mixed[2];
    arena.rows(mixed, w.m.padded_dim, s);
    FfnStage<Op> ffn(arena, group.rme_ffn, s, w.m);
    mix.prepare();
    for (int r = rows.r0 - 1; r <= rows.r1 && !w.stopped(); ++r) {
      const bool done = r > rows.r0;
      const Row& row = mixed[r & 1];
      if (w.inside(r)) {
        const InputRow yp = stream.take(r, i, s);
        const Row br = w.b.row(r), cr = w.c.row(r);
        mix.begin_row(r, w.map.row(0), (ptrdiff_t)w.map.channels * w.map.pitch);
        ffn.feed(r, {row, row}, [&](int from, int to) {
          mix.columns(from, to, from < s.x0 ? yp.left : yp.row, br, cr, row);
        });
      } else {
        ffn.feed_outside(r);
      }
      if (done) ffn.finish(r - 1, mixed[(r - 1) & 1], w.x.row(r - 1));
    }
  }
}

template <class Op>
size_t mix_scratch(const Model& m, const Plan& plan) {
  const Strip s = strip_at(plan, 0, FfnStage<Op>::kHalo);
  const Routing none = {};
  Arena arena = {};
  MixStage mix(arena, m.groups[0], s, m, none, plan);
  Row mixed[2];
  arena.rows(mixed, m.padded_dim, s);
  FfnStage<Op> ffn(arena, m.groups[0].rme_ffn, s, m);
  return arena.used;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
