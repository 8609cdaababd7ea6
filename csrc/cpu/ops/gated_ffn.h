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
struct Ffn {
  static constexpr int kWeights = 6;
  const Geometry& g;
  int c;
  GeluHalves halves;
  Matrix out, back_out;
  Stencil gate;
  Field a, g_value, gated, product, out_in, grad, grad_product;

  static constexpr Sizes<kWeights> sizes(int64_t c) {
    return join(GeluHalves::sizes(c), sizes_of(9 * c, c, c * c, c));
  }

  Ffn(Arena& arena, const Geometry& g_, int c_, Weights w) : g(g_), c(c_), halves(arena, g_, c_, w) {
    gate = {3, 3, w[2], w[3]};
    out = pack_matrix(arena, c, c, w[4], w[5]);
    back_out = pack_transposed(arena, c, c, w[4]);
    arena.fields(g, c, false, a, gated, product, out_in);
    g_value = arena.field(g, c, true);
    grad = arena.field(g, c);
    grad_product = arena.field(g, c, true);
  }

  // Up to what fn_2 gives, in `out_in`.
  void forward(const Field& x) {
    halves.forward(x, a, g_value);
    mask(g, g_value, c);
    apply_stencil(g, gate, false, g_value, gated, c);
    multiply(g, a, gated, product, c);
    convolve(g, out, product, out_in);
  }

  // result = residual + what the part gives
  void finish(const Field& residual, const Field& result) {
    each_vector(g, c, [&](int i, int r, int x) SM_LAMBDA_INLINE {
      store(result.at(i, r, x), load(residual.at(i, r, x)) + exact_gelu(load(out_in.at(i, r, x))));
    });
  }

  // After forward(x): dx from dy.
  void backward(const Field& x, const Field& dy, const Field& dx, Gradients d) {
    each_vector(g, c, [&](int i, int r, int at) SM_LAMBDA_INLINE {
      store(grad.at(i, r, at), load(dy.at(i, r, at)) * gelu_slope(load(out_in.at(i, r, at))));
    });
    matrix_gradient(g, grad, c, product, c, d[4]);
    bias_gradient(g, grad, c, d[5]);
    convolve(g, back_out, grad, out_in);      // of the product
    multiply(g, out_in, a, grad_product, c);  // of the gate's result
    multiply(g, out_in, gated, grad, c);      // of a
    stencil_gradient(g, gate, grad_product, g_value, c, d[2], d[3]);
    apply_stencil(g, gate, true, grad_product, gated, c);  // of g
    halves.backward(x, grad, gated, product, dx, d);
  }
};

struct GatedFfn : PartOp<Ffn> {
  static int64_t reach(const sm_op_params&) { return 1; }
  static auto sizes(const sm_op_params& p) { return Ffn::sizes(p.c); }

  GatedFfn(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w)
      : PartOp(arena, g, (int)p.c, w) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Ffn::forward(x);
    apply_gelu(g, out_in, y, c);
    write_image(g, y, c, out[0]);
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    Ffn::forward(x);
    read_image(g, grad_, c, y);
    mask(g, y, c);
    Ffn::backward(x, y, dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
