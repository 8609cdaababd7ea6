// The halves of the blocks over one image: feed-forward, stripes, striped attention.
//
// A part is made with an arena, from which it takes its fields and packed weights; it lives for all images of
// a thread.  `w`: its weights, in the order of the operator's inputs; `d`: where their gradients go.
#pragma once

#include "cpu/ops/layers.h"

namespace seemore {
namespace SM_ISA {

using Weights = const float* const*;
using Gradients = float* const*;

// The halves of GELU(W x + b).  w: W [2 c, c], b.
struct GeluHalves {
  const Geometry& g;
  int c;
  Matrix to[2], back[2];
  Field in[2];  // what GELU takes

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

// GELU(fn_2 (a * gate(g))), a and g the halves of GELU(fn_1 x).  w: fn_1, gate, fn_2, each weight and bias.
struct Ffn {
  const Geometry& g;
  int c;
  GeluHalves halves;
  Matrix out, back_out;
  Stencil gate;
  Field a, g_value, gated, product, out_in, grad, grad_product;

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

// Depthwise 1 x k, then k x 1.  w: both, each weight and bias.
struct Stripes {
  static constexpr int kWeights = 4;
  const Geometry& g;
  int c;
  Stencil across, down;
  Field middle, grad;

  Stripes(Arena& arena, const Geometry& g_, int c_, int k, Weights w)
      : g(g_), c(c_), across{1, k, w[0], w[1]}, down{k, 1, w[2], w[3]} {
    middle = arena.field(g, c, true);
    grad = arena.field(g, c, true);
  }

  void forward(const Field& x, const Field& y) {
    apply_stencil(g, across, false, x, middle, c);
    apply_stencil(g, down, false, middle, y, c);
  }

  // After forward(x, y); dy has a halo.
  void backward(const Field& x, const Field& dy, const Field& dx, Gradients d) {
    stencil_gradient(g, down, dy, middle, c, d[2], d[3]);
    apply_stencil(g, down, true, dy, grad, c);
    stencil_gradient(g, across, grad, x, c, d[0], d[1]);
    apply_stencil(g, across, true, grad, dx, c);
  }
};

// proj(stripes(q) * v), q and v the halves of GELU(qv x).  w: qv, stripes, proj.
struct Attention {
  static constexpr int kWeights = 4 + Stripes::kWeights;
  const Geometry& g;
  int c;
  GeluHalves halves;
  Stripes stripes;
  Matrix proj, back_proj;
  Field q, v, striped, product, grad, grad_striped;

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

}  // namespace SM_ISA
}  // namespace seemore
