// GatedFFN: x + ffn(LN x), and the pass that ends a group.
#pragma once

#include "cpu/engine/worker.h"
#include "cpu/rows/depthwise.h"
#include "cpu/rows/gemm.h"
#include "cpu/rows/norm.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

template <class Op>
struct FfnStage {
  static constexpr int kHalo = 1;  // columns and rows around the results that it reads
  const Ffn& ffn;
  const Strip& s;
  int dim, padded_dim, operands;  // channels, padded, and the units that an operand row keeps them in
  Row operand;                    // of one chunk
  Row a[2], g[3];

  FfnStage(Arena& arena, const Ffn& ffn_, const Strip& s_, const Model& m)
      : ffn(ffn_), s(s_), dim(m.dim), padded_dim(m.padded_dim), operands(padded_dim / Op::kPack) {
    operand = arena.chunk(operands);
    arena.rows(a, operands, s);
    arena.rows(g, operands, s);
  }

  // Row r, which lies outside the image.
  void feed_outside(int r) { zero_row(g[slot(r, 3)], operands, s, 1); }

  // Row r of the input; make(from, to) is called before those columns of it are read.
  template <class F>
  void feed(int r, const InputRow& in, F make) {
    const Row& gr = g[slot(r, 3)];
    each_input_chunk(s, in, [&](const Row& source, int from, int to) SM_LAMBDA_INLINE {
      make(from, to);
      const Row normal = operand.window(from);
      layer_norm<Op>(source, normal, dim, padded_dim, nullptr, nullptr, from, to);
      matmul<Op, Epilogue::kGeluOperand>(ffn.g, one_tap(normal), from, to, gr);
      matmul<Op, Epilogue::kGeluOperand>(ffn.a, one_tap(normal), s.inner(from), s.inner(to), a[slot(r, 2)]);
    });
    s.mask(gr, operands, 1);
  }

  // Row r of the output, once rows up to r + 1 were fed: residual + ffn.
  void finish(int r, const Row& residual, const Row& out) {
    const Row in[3] = {g[slot(r - 1, 3)], g[slot(r, 3)], g[slot(r + 1, 3)]};
    const Row& ar = a[slot(r, 2)];
    each_chunk(s.x0, s.x1, [&](int from, int to) SM_LAMBDA_INLINE {
      const Row product = operand.window(from);
      put_row<Op>(product, padded_dim, from, to, [&]<int N>(vf(&acc)[2][N], int c, int x) SM_LAMBDA_INLINE {
        depthwise_3x3<Op>(ffn.gate, in, acc, c, x);
        multiply<Op>(acc, ar, c, x);
      });
      matmul<Op, Epilogue::kGeluResidual>(ffn.out, one_tap(product), from, to, out, residual);
    });
  }
};

template <class Op>
void ffn_pass(Worker& w, const Group& group, Band range) {
  const Band rows = w.band(range, 1);
  const StreamInput stream = w.stream_input(rows);
  if (rows.r0 >= rows.r1) return;
  for (int i = 0; i < strips(w.plan); ++i) {
    const Strip s = strip_at(w.plan, i, FfnStage<Op>::kHalo);
    Arena arena = {w.scratch, 0};
    FfnStage<Op> ffn(arena, group.sme_ffn, s, w.m);
    for (int r = rows.r0 - 1; r <= rows.r1 && !w.stopped(); ++r) {
      const bool done = r > rows.r0;
      if (w.inside(r))
        ffn.feed(r, stream.take(r, i, s), [](int, int) {});
      else
        ffn.feed_outside(r);
      if (done) ffn.finish(r - 1, w.x.row(r - 1), w.x.row(r - 1));
    }
  }
}

template <class Op>
size_t ffn_scratch(const Model& m, const Plan& plan) {
  const Strip s = strip_at(plan, 0, FfnStage<Op>::kHalo);
  Arena arena = {};
  FfnStage<Op> stage(arena, m.groups[0].sme_ffn, s, m);
  return arena.used;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
