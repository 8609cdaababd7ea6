// SME's first half, striped attention.
#pragma once

#include "cpu/engine/worker.h"
#include "cpu/rows/depthwise.h"
#include "cpu/rows/gemm.h"
#include "cpu/rows/norm.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

template <class Op>
struct SmeStage {
  static int halo(const Model& m) { return m.kernel / 2; }

  const Group& group;
  const Strip& s;
  int dim, padded_dim, operands, half;
  Row operand[2], q;
  Row horizontal[kMaxKernel + 1];  // q after its 1xk stripe, k + 1 rows: results come in pairs of rows
  Row v[kMaxKernel / 2 + 2];

  SmeStage(Arena& arena, const Group& group_, const Strip& s_, const Model& m)
      : group(group_),
        s(s_),
        dim(m.dim),
        padded_dim(m.padded_dim),
        operands(padded_dim / Op::kPack),
        half(m.kernel / 2) {
    for (Row& row : operand) row = arena.chunk(operands);
    q = arena.row(operands, s);
    for (int i = 0; i < 2 * half + 2; ++i) horizontal[i] = arena.row(operands, s);
    for (int i = 0; i < half + 2; ++i) v[i] = arena.row(operands, s);
  }

  // Row r of the input; outside the image where in is null.  `inner`: this band needs its result, too.
  void feed(int r, const InputRow* in, bool inner) {
    const Row& hr = horizontal[slot(r, 2 * half + 2)];
    if (!in) return zero_row(hr, operands, s, 0);
    each_input_chunk(s, *in, [&](const Row& source, int from, int to) SM_LAMBDA_INLINE {
      const Row normal = operand[0].window(from);
      layer_norm<Op>(source, normal, dim, padded_dim, nullptr, nullptr, from, to);
      matmul<Op, Epilogue::kGeluOperand>(group.to_q, one_tap(normal), from, to, q);
      if (inner)
        matmul<Op, Epilogue::kGeluOperand>(group.to_v, one_tap(normal), s.inner(from), s.inner(to),
                                           v[slot(r, half + 2)]);
    });
    s.mask(q, operands, half);
    stripe_row<Op>(group.sme_h, q, hr, padded_dim, s.x0, s.x1);
  }

  // Rows r and r + 1 (the first `count` of them) of the stream, to which their results are added, once rows
  // up to r + count - 1 + half were fed.
  void finish(int r, int count, const Row stream[2]) {
    Row in[kMaxKernel + 1];
    for (int t = 0; t < 2 * half + 2; ++t) in[t] = horizontal[slot(r + t - half, 2 * half + 2)];
    const Row upper_v = v[slot(r, half + 2)], lower_v = v[slot(r + 1, half + 2)];
    each_chunk(s.x0, s.x1, [&](int from, int to) SM_LAMBDA_INLINE {
      const Row product[2] = {operand[0].window(from), operand[1].window(from)};
      for (int c = 0; c < padded_dim; c += 2)
        each_column(from, to, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
          vf upper[2][N], lower[2][N];
          stripe_column_pair<Op>(group.sme_v, in, upper, lower, c, x);
          multiply<Op>(upper, upper_v, c, x);
          multiply<Op>(lower, lower_v, c, x);
          for (int n = 0; n < N; ++n) {
            Op::put(product[0], c, x + n * VL, upper[0][n], upper[1][n]);
            Op::put(product[1], c, x + n * VL, lower[0][n], lower[1][n]);
          }
        });
      for (int i = 0; i < count; ++i)
        matmul<Op, Epilogue::kResidual>(group.sme_proj, one_tap(product[i]), from, to, stream[i], stream[i]);
    });
  }
};

template <class Op>
void sme_pass(Worker& w, const Group& group, Band range) {
  const Band rows = w.band(range, 1);
  const StreamInput stream = w.stream_input(rows);
  const int half = SmeStage<Op>::halo(w.m);
  for (int i = 0; i < strips(w.plan); ++i) {
    const Strip s = strip_at(w.plan, i, half);
    Arena arena = {w.scratch, 0};
    SmeStage<Op> stage(arena, group, s, w.m);
    int next = rows.r0 - half;
    for (int r = rows.r0; r < rows.r1 && !w.stopped(); r += 2) {
      const int count = r + 1 < rows.r1 ? 2 : 1;
      for (; next < r + count + half; ++next) {
        if (!w.inside(next)) {
          stage.feed(next, nullptr, false);
          continue;
        }
        const InputRow row = stream.take(next, i, s);
        stage.feed(next, &row, stream.own(next));
      }
      const Row results[2] = {w.x.row(r), w.x.row(r + 1)};
      stage.finish(r, count, results);
    }
  }
}

template <class Op>
size_t sme_scratch(const Model& m, const Plan& plan) {
  const Strip s = strip_at(plan, 0, SmeStage<Op>::halo(m));
  Arena arena = {};
  SmeStage<Op> stage(arena, m.groups[0], s, m);
  return arena.used;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
