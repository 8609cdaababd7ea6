// Striped attention: proj(stripes(q) * v), q and v the halves of GELU(qv x).
#pragma once

#include "cpu/ops/halves.h"
#include "cpu/ops/matrices.h"
#include "cpu/ops/op.h"
#include "cpu/ops/striped_conv2d.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// proj(stripes(q) * v), q and v the halves of GELU(qv x).  w: qv, stripes, proj.
template <class Operand>
struct Attention {
  static constexpr int kWeights = GeluHalves<Operand>::kWeights + Stripes::kWeights + 2;
  const Geometry& g;
  int c;
  GeluHalves<Operand> halves;
  Stripes stripes;
  Matrix proj, back_proj;
  Field q, v, striped, product, grad_striped;
  Row room;

  static constexpr Sizes<kWeights> sizes(int64_t c, int64_t k) {
    return join(GeluHalves<Operand>::sizes(c), Stripes::sizes(c, k), sizes_of(c * c, c));
  }

  Attention(Arena& arena, const Geometry& g_, int c_, int k, Weights w)
      : g(g_), c(c_), halves(arena, g_, c_, w), stripes(arena, g_, c_, k, w + 2) {
    proj = pack_matrix<Operand>(arena, c, c, w[6], w[7]);
    back_proj = pack_transposed<Operand>(arena, c, c, w[6]);
    arena.fields(g, c, v, striped, product, q, grad_striped);
    room = arena.row(g, c);
  }

  // Up to the stripes' result.  prepare(r) fills row r of x with operands.
  template <bool kSlopes, class Prepare>
  void begin(const Field& x, const Prepare& prepare) {
    for (int r = 0; r < g.h; ++r) {
      prepare(r);
      halves.template forward<kSlopes>(x, q, v, r);
    }
    mask(g, q, c);
    stripes.forward(q, striped);
  }

  // After begin: row r of the result, plus that of `residual` for kResidual.
  template <Epilogue E>
  void finish(int r, const Row& out, const Row& residual = Row()) const {
    multiply_row<Operand>(g, striped.row(r), v.row(r), room, c);
    convolve<Operand, E>(g, proj, room, out, residual);
  }

  // Computes forward again, and dx, where dy's operands lie meanwhile, from dy; finish(r) takes row r of it.
  template <class Prepare, class Finish>
  void backward(const Field& x, const Prepare& prepare, const Field& dy, const Field& dx, Gradients d,
                const Finish& finish) {
    begin<true>(x, prepare);
    const Field slope = operands<Operand>(g, dy, dx, c);
    for (int r = 0; r < g.h; ++r) {
      multiply_row<Operand>(g, striped.row(r), v.row(r), product.row(r), c);
      convolve<Operand>(g, back_proj, slope.row(r), room);      // of the product
      multiply_row(g, room, v.row(r), grad_striped.row(r), c);  // of the stripes' result
      multiply_row(g, room, striped.row(r), v.row(r), c);       // of v
    }
    matrix_gradient<Operand>(g, slope, c, product, c, d[6]);
    bias_gradient(g, dy, c, d[7]);
    stripes.backward(q, grad_striped, striped, d + 2);  // of q
    for (int r = 0; r < g.h; ++r) {
      halves.backward(striped, v, dx, r);
      finish(r);
    }
    halves.weight_gradients(x, striped, v, d);
  }
};

struct StripedAttention : PartOp<Attention<Fp32>> {
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static auto sizes(const sm_op_params& p) { return Attention<Fp32>::sizes(p.c, p.kernel); }

  StripedAttention(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w)
      : PartOp(arena, g, (int)p.c, (int)p.kernel, w) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    begin<false>(x, [](int) {});
    for (int r = 0; r < g.h; ++r) {
      finish<Epilogue::kStore>(r, dx.row(r));
      write_row(g, dx.row(r), c, out[0], r);
    }
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, grad_, c, y);
    Attention<Fp32>::backward(x, [](int) {}, y, dx, d + 1, [](int) {});
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
