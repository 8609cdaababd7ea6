// y + ffn(LN y): how both blocks end.
#pragma once

#include "cpu/ops/gated_ffn.h"
#include "cpu/ops/layer_norm2d.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// y + ffn(LN y): the second half of both.  w: norm, ffn.
struct FfnHalf {
  static constexpr int kWeights = Norm::kWeights + Ffn::kWeights;
  const Geometry& g;
  Norm norm;
  Ffn ffn;
  Field normal, grad;
  float* sums;

  static constexpr Sizes<kWeights> sizes(int64_t c) { return join(Norm::sizes(c), Ffn::sizes(c)); }

  FfnHalf(Arena& arena, const Geometry& g_, int c, float eps, Weights w)
      : g(g_), norm{w[0], w[1], eps, c}, ffn(arena, g_, c, w + Norm::kWeights) {
    normal = arena.field(g, c);
    grad = arena.field(g, c);
    sums = arena.floats(Norm::sums(c));
  }

  void forward(const Field& y, const Field& out) {
    norm.forward(g, y, normal);
    ffn.forward(normal);
    ffn.finish(y, out);
  }

  void backward(const Field& y, const Field& dout, const Field& dy, Gradients d) {
    norm.forward(g, y, normal);
    ffn.forward(normal);
    ffn.backward(normal, dout, grad, d + Norm::kWeights);
    norm.backward(g, y, grad, dout, dy, sums, d[0], d[1]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
