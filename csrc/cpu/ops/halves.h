// The two halves of GELU(W x + b), as feed-forward and attention begin.
#pragma once

#include "cpu/ops/matrices.h"
#include "cpu/ops/op.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// The halves of GELU(W x + b).  w: W [2 c, c], b.
template <class Operand>
struct GeluHalves {
  static constexpr int kWeights = 2;
  const Geometry& g;
  int c;
  Matrix to[2], back[2];
  Field slope[2];  // GELU's
  Row room;

  static constexpr Sizes<kWeights> sizes(int64_t c) { return sizes_of(2 * c * c, 2 * c); }

  GeluHalves(Arena& arena, const Geometry& g_, int c_, Weights w) : g(g_), c(c_) {
    for (int half = 0; half < 2; ++half) {
      to[half] = pack_matrix<Operand>(arena, c, c, w[0] + half * c * c, w[1] + half * c);
      back[half] = pack_transposed<Operand>(arena, c, c, w[0] + half * c * c);
      arena.fields(g, c, slope[half]);
    }
    room = arena.row(g, c);
  }

  // One row of x's operands; with the slopes that backward takes, or without.
  template <bool kSlopes>
  void forward(const Field& x, const Field& first, const Field& second, int r) const {
    const Field out[2] = {first, second};
    for (int half = 0; half < 2; ++half) {
      const Row in = (kSlopes ? slope : out)[half].row(r);
      convolve<Operand>(g, to[half], x.row(r), in);
      gelu_row<kSlopes>(g, in, out[half].row(r), c);
    }
  }

  // After forward with slopes: a row of dx from the halves' gradients, which become those of what GELU takes,
  // as operands.
  void backward(const Field& first, const Field& second, const Field& dx, int r) const {
    const Field grad[2] = {first, second};
    for (int half = 0; half < 2; ++half)
      multiply_row<Operand>(g, grad[half].row(r), slope[half].row(r), grad[half].row(r), c);
    convolve<Operand>(g, back[0], first.row(r), room);
    convolve<Operand, Epilogue::kResidual>(g, back[1], second.row(r), dx.row(r), room);
  }

  // Behind the last row.
  void weight_gradients(const Field& x, const Field& first, const Field& second, Gradients d) const {
    const Field grad[2] = {first, second};
    for (int half = 0; half < 2; ++half) {
      matrix_gradient<Operand>(g, grad[half], c, x, c, d[0] + half * c * c);
      bias_gradient<Operand>(g, grad[half], c, d[1] + half * c);
    }
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
