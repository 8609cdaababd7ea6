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
struct Attention {
  static constexpr int kWeights = GeluHalves::kWeights + Stripes::kWeights + 2;
  const Geometry& g;
  int c;
  GeluHalves halves;
  Stripes stripes;
  Matrix proj, back_proj;
  Field q, v, striped, product, grad, grad_striped;

  static constexpr Sizes<kWeights> sizes(int64_t c, int64_t k) {
    return join(GeluHalves::sizes(c), Stripes::sizes(c, k), sizes_of(c * c, c));
  }

  Attention(Arena& arena, const Geometry& g_, int c_, int k, Weights w)
      : g(g_), c(c_), halves(arena, g_, c_, w), stripes(arena, g_, c_, k, w + 2) {
    proj = pack_matrix(arena, c, c, w[6], w[7]);
    back_proj = pack_transposed(arena, c, c, w[6]);
    arena.fields(g, c, false, q, v, striped, product, grad);
    grad_striped = arena.field(g, c, true);
  }

  // Up to what proj takes, in `product`.
  void forward(const Field& x) {
    halves.forward(x, q, v);
    mask(g, q, c);
    stripes.forward(q, striped);
    multiply(g, striped, v, product, c);
  }

  // After forward(x): dx from dy.
  void backward(const Field& x, const Field& dy, const Field& dx, Gradients d) {
    matrix_gradient(g, dy, c, product, c, d[6]);
    bias_gradient(g, dy, c, d[7]);
    convolve(g, back_proj, dy, product);  // its gradient
    multiply(g, product, v, grad_striped, c);
    multiply(g, product, striped, grad, c);             // of v
    stripes.backward(q, grad_striped, striped, d + 2);  // of q
    halves.backward(x, striped, grad, product, dx, d);
  }
};

struct StripedAttention : PartOp<Attention> {
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static auto sizes(const sm_op_params& p) { return Attention::sizes(p.c, p.kernel); }

  StripedAttention(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w)
      : PartOp(arena, g, (int)p.c, (int)p.kernel, w) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Attention::forward(x);
    convolve(g, proj, product, dx);
    write_image(g, dx, c, out[0]);
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    Attention::forward(x);
    read_image(g, grad_, c, y);
    Attention::backward(x, y, dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
