// GatedFFN: GELU(fn_2 (a * gate(g))), a and g the halves of GELU(fn_1 x).
#pragma once

#include "cpu/isa/gelu.h"
#include "cpu/ops/halves.h"
#include "cpu/ops/matrices.h"
#include "cpu/ops/op.h"
#include "cpu/ops/stencils.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// GELU(fn_2 (a * gate(g))), a and g the halves of GELU(fn_1 x).  w: fn_1, gate, fn_2, each weight and bias.
template <class Operand>
struct Ffn {
  static constexpr int kWeights = 6;
  const Geometry& g;
  int c;
  GeluHalves<Operand> halves;
  Matrix out, back_out;
  Stencil gate;
  Field a, g_value, gated, product, grad, grad_gated;
  Row out_in, room;

  static constexpr Sizes<kWeights> sizes(int64_t c) {
    return join(GeluHalves<Operand>::sizes(c), sizes_of(9 * c, c, c * c, c));
  }

  Ffn(Arena& arena, const Geometry& g_, int c_, Weights w) : g(g_), c(c_), halves(arena, g_, c_, w) {
    gate = {3, 3, w[2], w[3]};
    out = pack_matrix<Operand>(arena, c, c, w[4], w[5]);
    back_out = pack_transposed<Operand>(arena, c, c, w[4]);
    arena.fields(g, c, a, gated, product, grad, g_value, grad_gated);
    out_in = arena.row(g, c);
    room = arena.row(g, c);
  }

  // Up to the gate's result.  prepare(r) fills row r of x with operands.
  template <bool kSlopes, class Prepare>
  void begin(const Field& x, const Prepare& prepare) {
    for (int r = 0; r < g.h; ++r) {
      prepare(r);
      halves.template forward<kSlopes>(x, a, g_value, r);
    }
    mask(g, g_value, c);
    apply_stencil(g, gate, false, g_value, gated, c);
  }

  // emit(r, row) takes what the part gives, a row at a time.
  template <class Prepare, class Emit>
  void forward(const Field& x, const Prepare& prepare, const Emit& emit) {
    begin<false>(x, prepare);
    for (int r = 0; r < g.h; ++r) {
      multiply_row<Operand>(g, a.row(r), gated.row(r), room, c);
      convolve<Operand>(g, out, room, out_in);
      gelu_row<false>(g, out_in, out_in, c);
      emit(r, out_in);
    }
  }

  // Computes forward again, and dx from dy; finish(r) takes row r of it.
  template <class Prepare, class Finish>
  void backward(const Field& x, const Prepare& prepare, const Field& dy, const Field& dx, Gradients d,
                const Finish& finish) {
    begin<true>(x, prepare);
    for (int r = 0; r < g.h; ++r) {
      multiply_row<Operand>(g, a.row(r), gated.row(r), product.row(r), c);
      convolve<Operand>(g, out, product.row(r), out_in);
      gelu_row<true>(g, out_in, room, c);
      multiply_row<Operand>(g, dy.row(r), out_in, grad.row(r), c);
      convolve<Operand>(g, back_out, grad.row(r), room);      // of the product
      multiply_row(g, room, a.row(r), grad_gated.row(r), c);  // of the gate's result
      multiply_row(g, room, gated.row(r), a.row(r), c);       // of a
    }
    matrix_gradient<Operand>(g, grad, c, product, c, d[4]);
    bias_gradient<Operand>(g, grad, c, d[5]);
    stencil_gradient(g, gate, grad_gated, g_value, c, d[2], d[3]);
    apply_stencil(g, gate, true, grad_gated, gated, c);  // of g
    for (int r = 0; r < g.h; ++r) {
      halves.backward(a, gated, dx, r);
      finish(r);
    }
    halves.weight_gradients(x, a, gated, d);
  }
};

struct GatedFfn : PartOp<Ffn<Fp32>> {
  static int64_t reach(const sm_op_params&) { return 1; }
  static auto sizes(const sm_op_params& p) { return Ffn<Fp32>::sizes(p.c); }

  GatedFfn(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w)
      : PartOp(arena, g, (int)p.c, w) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Ffn<Fp32>::forward(x, [](int) {}, [&](int r, const Row& row) { write_row(g, row, c, out[0], r); });
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, grad_, c, y);
    Ffn<Fp32>::backward(x, [](int) {}, y, dx, d + 1, [](int) {});
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
