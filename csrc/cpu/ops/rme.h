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

// w: RMEWeights.
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
                CoarseContext::sizes(c), MixtureWeights::sizes(p), sizes_of(c * c, c), FfnHalf::sizes(c));
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
  FfnHalf half;
  Field x, y, normal, conv_out, value, a, k, striped, local, context, mixed, dout, grad, grad_conv;

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
        half(arena, g_, c, p.eps, w + kHalf) {
    const float *const weight = w[kConv], *const split = w[kSplit], *const bias = w[kSplit + 1];
    const int n = c;
    conv = pack(arena, c, c, 9, w[kConv + 1],
                [=](int m, int j, int tap) { return weight[(m * n + j) * 9 + tap]; });
    back_conv = pack(arena, c, c, 9, nullptr,
                     [=](int m, int j, int tap) { return weight[(j * n + m) * 9 + 8 - tap]; });
    for (int h = 0; h < 2; ++h) {
      float* const ordered = arena.floats(c);
      for (int i = 0; arena.base && i < c; ++i) ordered[i] = bias[from(i, h)];
      (h ? to_k : to_a) =
          pack(arena, c, c, 1, ordered, [=, this](int m, int j, int) { return split[from(m, h) * n + j]; });
      (h ? back_k : back_a) =
          pack(arena, c, c, 1, nullptr, [=, this](int m, int j, int) { return split[from(j, h) * n + m]; });
    }
    proj = pack_matrix(arena, c, c, w[kProj], w[kProj + 1]);
    back_proj = pack_transposed(arena, c, c, w[kProj]);
    arena.fields(g, c, false, x, y, conv_out, value, k, striped, local, context, mixed, dout);
    arena.fields(g, c, true, normal, a, grad, grad_conv);
  }

  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    norm.forward(g, x, normal);
    convolve(g, conv, normal, conv_out);
    write_image(g, conv_out, c, out[1]);
    first_half();
    mixture.route(local);
    mixture.write_routing(out[3], out[4]);
    mixture.forward(local, context, mixed);
    convolve<Epilogue::kResidual>(g, proj, mixed, y, x);
    write_image(g, y, c, out[2]);
    half.forward(y, mixed);
    write_image(g, mixed, c, out[0]);
  }

  // in: x; saved: result of the 3x3, y, routing weights, mean; d: of x, then of w.
  void backward(const float* dresult, const float* const* saved, const float* const* in, Gradients d) {
    read_image(g, dresult, c, dout);
    read_image(g, saved[0], c, conv_out);
    read_image(g, saved[1], c, y);
    read_image(g, in[0], c, x);
    Gradients dw = d + 1;
    half.backward(y, dout, grad, dw + kHalf);  // of y
    first_half();
    mixture.route_as(local, saved[2]);
    mixture.forward(local, context, mixed);
    matrix_gradient(g, grad, c, mixed, c, dw[kProj]);
    bias_gradient(g, grad, c, dw[kProj + 1]);
    convolve(g, back_proj, grad, dout);  // of mixed
    mixture.backward(local, context, dout, grad_conv, mixed, dw + kMixture);
    gelu_backward(g, striped, grad_conv, c);                 // of the stripes' result
    stripes.backward(a, grad_conv, striped, dw + kStripes);  // of a
    calibrate.backward(mixed, mixed, dw + kCalibrate);       // of k
    split_gradient(striped, 0, dw);
    split_gradient(mixed, 1, dw);
    convolve(g, back_a, striped, value);
    convolve<Epilogue::kResidual>(g, back_k, mixed, grad_conv, value);
    gelu_backward(g, conv_out, grad_conv, c);
    norm.forward(g, x, normal);
    const int n = c;
    correlate<4>(
        g, c, grad_conv.stride, [&](int i) { return grad_conv.at(i, 0, 0); }, 9 * c, normal.stride,
        [&](int j) { return normal.at(j / 9, j % 9 / 3 - 1, j % 3 - 1); },
        [&](int i, int j, float v) { dw[kConv][i * 9 * n + j] = v; });
    bias_gradient(g, grad_conv, c, dw[kConv + 1]);
    convolve(g, back_conv, grad_conv, value);
    mask(g, value, c);
    norm.backward(g, x, value, grad, dout, half.sums, dw[0], dw[1]);
    if (d[0]) write_image(g, dout, c, d[0]);
  }

 private:
  // From conv_out: the two things that are mixed.
  void first_half() {
    apply_gelu(g, conv_out, value, c);
    convolve(g, to_a, value, a);
    mask(g, a, c);
    convolve(g, to_k, value, k);
    stripes.forward(a, striped);
    apply_gelu(g, striped, local, c);
    calibrate.forward(k, context);
  }

  void split_gradient(const Field& slope, int h, Gradients dw) {
    const int n = c;
    correlate<4>(
        g, c, slope.stride, [&](int i) { return slope.at(i, 0, 0); }, c, value.stride,
        [&](int j) { return value.at(j, 0, 0); },
        [&](int i, int j, float v) { dw[kSplit][from(i, h) * n + j] = v; });
    float* const bias = half.sums;
    bias_gradient(g, slope, c, bias);
    for (int i = 0; i < c; ++i) dw[kSplit + 1][from(i, h)] = bias[i];
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
