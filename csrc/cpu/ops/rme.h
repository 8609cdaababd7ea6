// RME over one image.  Forward gives what backward starts from: the result of the 3x3, y (the sum after the
// first half), and the routing; all else is computed again.
#pragma once

#include "cpu/ops/calibrate.h"
#include "cpu/ops/ffn_half.h"
#include "cpu/ops/layer_norm2d.h"
#include "cpu/ops/matrices.h"
#include "cpu/ops/mix_experts.h"
#include "cpu/ops/op.h"
#include "cpu/ops/striped_conv2d.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// w: RMEWeights.  Experts stay in fp32.
template <class Operand>
struct Rme {
  static constexpr int kImages = 1;
  static constexpr int kConv = Norm::kWeights, kSplit = kConv + 2, kStripes = kSplit + 2,
                       kCalibrate = kStripes + Stripes::kWeights,
                       kMixture = kCalibrate + CoarseContext::kWeights, kProj = kMixture + Mixture::kWeights,
                       kHalf = kProj + 2;
  static int64_t reach(const sm_op_params&) { return 1; }
  static auto sizes(const sm_op_params& p) {
    const int64_t c = p.c;
    return join(Norm::sizes(c), sizes_of(9 * c * c, c, 2 * c * c, 2 * c), Stripes::sizes(c, 3),
                CoarseContext::sizes(c), MixtureWeights::sizes(p), sizes_of(c * c, c),
                FfnHalf<Operand>::sizes(c));
  }
  static auto saved(const sm_op_params& p) {
    return sizes_of(p.c * p.h * p.w, p.c * p.h * p.w, p.experts, p.c);
  }

  const Geometry& g;
  int c;
  bool shuffle;
  Norm norm;
  Matrix conv, back_conv, to_a, to_k, back_a, back_k, proj, back_proj;
  Stripes stripes;
  CoarseContext calibrate;
  Mixture mixture;
  FfnHalf<Operand> half;
  Field x, y, normal, conv_out, value, a, striped, local, context, mixed, dout, grad, grad_conv;
  Row room;

  // Which output channel of split is channel i of the half.
  int from(int i, int half_) const {
    const int out = half_ * c + i;
    return shuffle ? out % 2 * c + out / 2 : out;
  }

  Rme(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_),
        c((int)p.c),
        shuffle(p.shuffle),
        norm{w[0], w[1], p.eps, c},
        stripes(arena, g_, c, 3, w + kStripes),
        calibrate(arena, g_, c, (int)p.recursive, w + kCalibrate),
        mixture(arena, g_, p, w + kMixture),
        half(arena.lend_fields([&](Arena& own) { return FfnHalf<Operand>(own, g_, c, p.eps, w + kHalf); })) {
    const float *const split = w[kSplit], *const bias = w[kSplit + 1];
    const int n = c;
    conv = pack_3x3<Operand>(arena, c, c, w[kConv], w[kConv + 1]);
    back_conv = pack_3x3_transposed<Operand>(arena, c, c, w[kConv]);
    for (int h = 0; h < 2; ++h) {
      float* const ordered = arena.floats(c);
      for (int i = 0; arena.base && i < c; ++i) ordered[i] = bias[from(i, h)];
      (h ? to_k : to_a) = pack<Operand>(arena, c, c, 1, ordered,
                                        [=, this](int m, int j, int) { return split[from(m, h) * n + j]; });
      (h ? back_k : back_a) = pack<Operand>(
          arena, c, c, 1, nullptr, [=, this](int m, int j, int) { return split[from(j, h) * n + m]; });
    }
    proj = pack_matrix<Operand>(arena, c, c, w[kProj], w[kProj + 1]);
    back_proj = pack_transposed<Operand>(arena, c, c, w[kProj]);
    // Some in the places of half's, of which its forward works on the third, fourth, seventh and ninth
    // meanwhile.
    arena.fields(g, c, local, striped, mixed, grad_conv, a, context, value, x, conv_out, normal);
    arena.images->used = arena.images->most;
    arena.fields(g, c, y, dout, grad);
    room = arena.row(g, c);
  }

  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    first_half<false>([&](int r) {
      if (r == 0) norm.forward<Operand>(g, x, normal, 0);
      if (r + 1 < g.h) norm.forward<Operand>(g, x, normal, r + 1);
      convolve_3x3<Operand>(g, conv, normal, r, conv_out.row(r));
      write_row(g, conv_out.row(r), c, out[1], r);
    });
    mixture.route(local);
    mixture.write_routing(out[3], out[4]);
    half.forward(y, out[0], [&](int r) {
      mixture.forward(local, context, r, room);
      convolve<Operand, Epilogue::kResidual>(g, proj, operands<Operand>(g, room, room, c), y.row(r),
                                             x.row(r));
      write_row(g, y.row(r), c, out[2], r);
    });
  }

  // in: x; saved: result of the 3x3, y, routing weights, mean; d: of x, then of w.
  void backward(const float* dresult, const float* const* saved, const float* const* in, Gradients d) {
    read_image(g, dresult, c, dout);
    read_image(g, saved[1], c, y);
    Gradients dw = d + 1;
    half.backward(y, dout, grad, dw + kHalf, [](int) {});  // of y
    read_image(g, saved[0], c, conv_out);
    read_image(g, in[0], c, x);
    first_half<true>([](int) {});
    mixture.route_as(local, saved[2]);
    const Field slope = operands<Operand>(g, grad, y, c);
    for (int r = 0; r < g.h; ++r) {
      mixture.forward(local, context, r, mixed.row(r));
      operands<Operand>(g, mixed.row(r), mixed.row(r), c);
      convolve<Operand>(g, back_proj, slope.row(r), dout.row(r));  // of mixed
    }
    matrix_gradient<Operand>(g, slope, c, mixed, c, dw[kProj]);
    bias_gradient(g, grad, c, dw[kProj + 1]);
    mixture.backward(local, context, dout, grad_conv, mixed, dw + kMixture);
    for (int r = 0; r < g.h; ++r) multiply_row(g, grad_conv.row(r), striped.row(r), grad_conv.row(r), c);
    stripes.backward(a, grad_conv, striped, dw + kStripes);  // of a
    calibrate.backward(mixed, mixed, dw + kCalibrate);       // of k
    split_gradient(operands<Operand>(g, striped, striped, c), 0, dw);
    split_gradient(operands<Operand>(g, mixed, mixed, c), 1, dw);
    for (int r = 0; r < g.h; ++r) {
      convolve<Operand>(g, back_a, striped.row(r), room);
      convolve<Operand, Epilogue::kResidual>(g, back_k, mixed.row(r), grad_conv.row(r), room);
      multiply_row<Operand>(g, grad_conv.row(r), conv_out.row(r), grad_conv.row(r), c);
      norm.forward<Operand>(g, x, normal, r);
    }
    gradient_3x3<Operand>(g, grad_conv, c, normal, c, dw[kConv]);
    bias_gradient<Operand>(g, grad_conv, c, dw[kConv + 1]);
    for (int r = 0; r < g.h; ++r) {
      convolve_3x3<Operand>(g, back_conv, grad_conv, r, value.row(r));
      zero_columns(value.row(r), c, g.w, g.padded_w);
      norm.backward(g, x, value, grad, dout, half.sums, r);
    }
    norm.weight_gradients(half.sums, dw[0], dw[1]);
    if (d[0]) write_image(g, dout, c, d[0]);
  }

 private:
  // The two things that are mixed, from conv_out, of which prepare(r) fills row r; with kSlopes those of GELU
  // take the places of conv_out and `striped`.
  template <bool kSlopes, class Prepare>
  void first_half(const Prepare& prepare) {
    for (int r = 0; r < g.h; ++r) {
      prepare(r);
      gelu_row<kSlopes, Operand>(g, conv_out.row(r), value.row(r), c);
      convolve<Operand>(g, to_a, value.row(r), a.row(r));
      convolve<Operand>(g, to_k, value.row(r), context.row(r));
    }
    mask(g, a, c);
    stripes.forward(a, striped);
    for (int r = 0; r < g.h; ++r) gelu_row<kSlopes>(g, striped.row(r), local.row(r), c);
    calibrate.forward(context, context);
  }

  void split_gradient(const Field& slope, int h, Gradients dw) {
    matrix_gradient_rows<Operand>(g, slope, c, value, c, [&](int i) { return dw[kSplit] + from(i, h) * c; });
    float* const bias = half.sums;
    bias_gradient<Operand>(g, slope, c, bias);
    for (int i = 0; i < c; ++i) dw[kSplit + 1][from(i, h)] = bias[i];
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
