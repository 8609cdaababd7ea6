// RME over one image.  Forward gives what backward starts from: conv_out (the result of the 3x3), y (the sum
// after the first half), and the routing; all else is computed again.
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
  const Geometry& g;
  int c;
  bool shuffle;
  Norm norm;
  Matrix conv, back_conv, to_a, to_k, back_a, back_k, proj, back_proj;
  Stripes stripes;
  CoarseContext calibrate;
  Mixture mixture;
  FfnHalf<Operand> half;
  Field normal, slope, value, a, striped, local, context, mixed, of_mixed, grad, grad_conv;
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
    // In the places of half's, of which its forward works on the third, fourth, seventh and ninth meanwhile.
    arena.fields(g, c, local, striped, mixed, grad_conv, a, context, value, slope, of_mixed, normal);
    arena.images->used = arena.images->most;
    arena.fields(g, c, grad);
    room = arena.row(g, c);
  }

  // From rows to rows, here and below: x to `result`, and on the way what backward starts from, conv_out, y,
  // the routing weights [experts] and the mean [c].
  void forward(const Field& x, const Field& conv_out, const Field& y, float* routing, float* mean,
               const Field& result) {
    first_half<false>(conv_out, [&](int r) {
      if (r == 0) norm.forward<Operand>(g, x, normal, 0);
      if (r + 1 < g.h) norm.forward<Operand>(g, x, normal, r + 1);
      convolve_3x3<Operand>(g, conv, normal, r, conv_out.row(r));
    });
    mixture.route(local);
    mixture.write_routing(routing, mean);
    half.forward(y, result, [&](int r) {
      mixture.forward(local, context, r, room);
      convolve<Operand, Epilogue::kResidual>(g, proj, operands<Operand>(g, room, room, c), y.row(r),
                                             x.row(r));
    });
  }

  // dw: of w.
  void backward(const Field& dresult, const Field& x, const Field& conv_out, const Field& y,
                const float* routing, const Field& dx, Gradients dw) {
    half.backward(y, dresult, grad, dw + kHalf, [](int) {});  // of y
    first_half<true>(conv_out, [](int) {});
    mixture.route_as(local, routing);
    const Field of_y = operands<Operand>(g, grad, grad_conv, c);
    for (int r = 0; r < g.h; ++r) {
      mixture.forward(local, context, r, mixed.row(r));
      operands<Operand>(g, mixed.row(r), mixed.row(r), c);
      convolve<Operand>(g, back_proj, of_y.row(r), of_mixed.row(r));
    }
    matrix_gradient<Operand>(g, of_y, c, mixed, c, dw[kProj]);
    bias_gradient(g, grad, c, dw[kProj + 1]);
    mixture.backward(local, context, of_mixed, grad_conv, mixed, dw + kMixture);
    for (int r = 0; r < g.h; ++r) multiply_row(g, grad_conv.row(r), striped.row(r), grad_conv.row(r), c);
    stripes.backward(a, grad_conv, striped, dw + kStripes);  // of a
    calibrate.backward(mixed, mixed, dw + kCalibrate);       // of k
    split_gradient(operands<Operand>(g, striped, striped, c), 0, dw);
    split_gradient(operands<Operand>(g, mixed, mixed, c), 1, dw);
    for (int r = 0; r < g.h; ++r) {
      convolve<Operand>(g, back_a, striped.row(r), room);
      convolve<Operand, Epilogue::kResidual>(g, back_k, mixed.row(r), grad_conv.row(r), room);
      multiply_row<Operand>(g, grad_conv.row(r), slope.row(r), grad_conv.row(r), c);
      norm.forward<Operand>(g, x, normal, r);
    }
    gradient_3x3<Operand>(g, grad_conv, c, normal, c, dw[kConv]);
    bias_gradient<Operand>(g, grad_conv, c, dw[kConv + 1]);
    for (int r = 0; r < g.h; ++r) {
      convolve_3x3<Operand>(g, back_conv, grad_conv, r, value.row(r));
      zero_columns(value.row(r), c, g.w, g.padded_w);
      norm.backward(g, x, value, grad, dx, half.sums, r);
    }
    norm.weight_gradients(half.sums, dw[0], dw[1]);
  }

 private:
  // The two things that are mixed, from conv_out, of which prepare(r) fills row r; with kSlopes those of GELU
  // come to `slope` and `striped`.
  template <bool kSlopes, class Prepare>
  void first_half(const Field& conv_out, const Prepare& prepare) {
    for (int r = 0; r < g.h; ++r) {
      prepare(r);
      gelu_row<kSlopes, Operand>(g, conv_out.row(r), value.row(r), c, slope.row(r));
      convolve<Operand>(g, to_a, value.row(r), a.row(r));
      convolve<Operand>(g, to_k, value.row(r), context.row(r));
    }
    mask(g, a, c);
    stripes.forward(a, striped);
    for (int r = 0; r < g.h; ++r) gelu_row<kSlopes>(g, striped.row(r), local.row(r), c);
    calibrate.forward(context, context);
  }

  void split_gradient(const Field& of_half, int h, Gradients dw) {
    matrix_gradient_rows<Operand>(g, of_half, c, value, c,
                                  [&](int i) { return dw[kSplit] + from(i, h) * c; });
    float* const bias = half.sums;
    bias_gradient<Operand>(g, of_half, c, bias);
    for (int i = 0; i < c; ++i) dw[kSplit + 1][from(i, h)] = bias[i];
  }
};

// in: x; saved: conv_out, y, routing weights, mean.
struct RmeOp : Rme<Fp32> {
  static constexpr int kImages = 1;
  static auto saved(const sm_op_params& p) {
    return sizes_of(p.c * p.h * p.w, p.c * p.h * p.w, p.experts, p.c);
  }

  Field x, conv_out, y, result, dx;

  RmeOp(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w) : Rme<Fp32>(arena, g, p, w) {
    arena.fields(g, c, x, conv_out, y, result, dx);
  }
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Rme::forward(x, conv_out, y, out[3], out[4], result);
    write_image(g, result, c, out[0]);
    write_image(g, conv_out, c, out[1]);
    write_image(g, y, c, out[2]);
  }
  void backward(const float* grad_, const float* const* saved, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, saved[0], c, conv_out);
    read_image(g, saved[1], c, y);
    read_image(g, grad_, c, result);
    Rme::backward(result, x, conv_out, y, saved[2], dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
