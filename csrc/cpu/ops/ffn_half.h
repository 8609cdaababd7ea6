// y + ffn(LN y): how both blocks end.
#pragma once

#include "cpu/ops/gated_ffn.h"
#include "cpu/ops/layer_norm2d.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// y + ffn(LN y): the second half of both.  w: norm, ffn.
template <class Operand>
struct FfnHalf {
  static constexpr int kWeights = Norm::kWeights + Ffn<Operand>::kWeights;
  const Geometry& g;
  Norm norm;
  Ffn<Operand> ffn;
  Field normal, grad;
  float* sums;

  static constexpr Sizes<kWeights> sizes(int64_t c) { return join(Norm::sizes(c), Ffn<Operand>::sizes(c)); }

  FfnHalf(Arena& arena, const Geometry& g_, int c, float eps, Weights w)
      : g(g_), norm{w[0], w[1], eps, c}, ffn(arena, g_, c, w + Norm::kWeights) {
    arena.fields(g, c, normal, grad);
    sums = arena.floats(Norm::sums(c));
  }

  // prepare(r) fills row r of y.
  template <class Prepare>
  void forward(const Field& y, const Field& out, const Prepare& prepare) {
    ffn.forward(
        normal,
        [&](int r) {
          prepare(r);
          norm.forward<Operand>(g, y, normal, r);
        },
        [&](int r, const Row& row) {
          each_in_row(g, round_up(ffn.c, 4), [&](int c, int x) SM_LAMBDA_INLINE {
            store(out.at(c, r, x), load(y.at(c, r, x)) + load(row.at(c, x)));
          });
        });
  }

  // finish(r) takes row r of dy.
  template <class Finish>
  void backward(const Field& y, const Field& dout, const Field& dy, Gradients d, const Finish& finish) {
    ffn.backward(
        normal, [&](int r) { norm.forward<Operand>(g, y, normal, r); }, dout, grad, d + Norm::kWeights,
        [&](int r) {
          norm.backward(g, y, grad, dout, dy, sums, r);
          finish(r);
        });
    norm.weight_gradients(sums, d[0], d[1]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
