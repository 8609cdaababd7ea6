// The two halves of GELU(W x + b), as feed-forward and attention begin.
#pragma once

#include "cpu/ops/matrices.h"
#include "cpu/ops/op.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// The halves of GELU(W x + b).  w: W [2 c, c], b.
struct GeluHalves {
  static constexpr int kWeights = 2;
  const Geometry& g;
  int c;
  Matrix to[2], back[2];
  Field in[2];  // what GELU takes

  static constexpr Sizes<kWeights> sizes(int64_t c) { return sizes_of(2 * c * c, 2 * c); }

  GeluHalves(Arena& arena, const Geometry& g_, int c_, Weights w) : g(g_), c(c_) {
    for (int half = 0; half < 2; ++half) {
      to[half] = pack_matrix(arena, c, c, w[0] + half * c * c, w[1] + half * c);
      back[half] = pack_transposed(arena, c, c, w[0] + half * c * c);
      in[half] = arena.field(g, c);
    }
  }

  void forward(const Field& x, const Field& first, const Field& second) const {
    const Field out[2] = {first, second};
    for (int half = 0; half < 2; ++half) {
      convolve(g, to[half], x, in[half]);
      apply_gelu(g, in[half], out[half], c);
    }
  }

  // After forward: dx from the halves' gradients, which are overwritten, as is `room`.
  void backward(const Field& x, const Field& first, const Field& second, const Field& room, const Field& dx,
                Gradients d) const {
    const Field grad[2] = {first, second};
    for (int half = 0; half < 2; ++half) {
      gelu_backward(g, in[half], grad[half], c);
      matrix_gradient(g, grad[half], c, x, c, d[0] + half * c * c);
      bias_gradient(g, grad[half], c, d[1] + half * c);
    }
    convolve(g, back[0], first, room);
    convolve<Epilogue::kResidual>(g, back[1], second, dx, room);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
