// SME over one image.  Forward gives what backward starts from: y, the sum after the first half; all else is
// computed again.
#pragma once

#include "cpu/ops/ffn_half.h"
#include "cpu/ops/layer_norm2d.h"
#include "cpu/ops/matrices.h"
#include "cpu/ops/op.h"
#include "cpu/ops/striped_attention.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// w: SMEWeights.
template <class Operand>
struct Sme {
  static constexpr int kAttention = Norm::kWeights, kHalf = kAttention + Attention<Operand>::kWeights;
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static auto sizes(const sm_op_params& p) {
    return join(Norm::sizes(p.c), Attention<Operand>::sizes(p.c, p.kernel), FfnHalf<Operand>::sizes(p.c));
  }

  const Geometry& g;
  int c;
  Norm norm;
  Attention<Operand> attention;
  FfnHalf<Operand> half;
  Field normal, grad, of_normal;

  Sme(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_),
        c((int)p.c),
        norm{w[0], w[1], p.eps, c},
        attention(arena.lend_fields(
            [&](Arena& own) { return Attention<Operand>(own, g_, c, (int)p.kernel, w + kAttention); })),
        half(arena.lend_fields([&](Arena& own) { return FfnHalf<Operand>(own, g_, c, p.eps, w + kHalf); })) {
    // Half's forward works on the third, fourth, seventh and ninth, attention's `finish` on its fifth and
    // sixth.
    arena.images->used = arena.images->most;
    arena.fields(g, c, normal, grad, of_normal);
  }

  // From rows to rows, here and below: x to `result`, and y on the way.
  void forward(const Field& x, const Field& y, const Field& result) {
    attention.template begin<false>(normal, [&](int r) { norm.forward<Operand>(g, x, normal, r); });
    half.forward(y, result,
                 [&](int r) { attention.template finish<Epilogue::kResidual>(r, y.row(r), x.row(r)); });
  }

  // dw: of w.
  void backward(const Field& dresult, const Field& x, const Field& y, const Field& dx, Gradients dw) {
    half.backward(y, dresult, grad, dw + kHalf, [](int) {});  // of y
    attention.backward(
        normal, [&](int r) { norm.forward<Operand>(g, x, normal, r); }, grad, of_normal, dw + kAttention,
        [&](int r) { norm.backward(g, x, of_normal, grad, dx, half.sums, r); });
    norm.weight_gradients(half.sums, dw[0], dw[1]);
  }
};

// in: x; saved: y.
struct SmeOp : Sme<Fp32> {
  static constexpr int kImages = 1;
  static auto saved(const sm_op_params& p) { return sizes_of(p.c * p.h * p.w); }

  Field x, y, result, dx;

  SmeOp(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w) : Sme<Fp32>(arena, g, p, w) {
    arena.fields(g, c, x, y, result, dx);
  }
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Sme::forward(x, y, result);
    write_image(g, result, c, out[0]);
    write_image(g, y, c, out[1]);
  }
  void backward(const float* grad_, const float* const* saved, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, saved[0], c, y);
    read_image(g, grad_, c, result);
    Sme::backward(result, x, y, dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
