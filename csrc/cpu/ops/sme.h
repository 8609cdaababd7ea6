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
  static constexpr int kImages = 1, kAttention = Norm::kWeights,
                       kHalf = kAttention + Attention<Operand>::kWeights;
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static auto sizes(const sm_op_params& p) {
    return join(Norm::sizes(p.c), Attention<Operand>::sizes(p.c, p.kernel), FfnHalf<Operand>::sizes(p.c));
  }
  static auto saved(const sm_op_params& p) { return sizes_of(p.c * p.h * p.w); }

  const Geometry& g;
  int c;
  Norm norm;
  Attention<Operand> attention;
  FfnHalf<Operand> half;
  Field x, y, normal, dout, grad;

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
    arena.fields(g, c, x, y, normal, dout, grad);
  }

  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    attention.template begin<false>(normal, [&](int r) { norm.forward<Operand>(g, x, normal, r); });
    half.forward(y, out[0], [&](int r) {
      attention.template finish<Epilogue::kResidual>(r, y.row(r), x.row(r));
      write_row(g, y.row(r), c, out[1], r);
    });
  }

  // in: x; saved: y; d: of x, then of w.
  void backward(const float* dresult, const float* const* saved, const float* const* in, Gradients d) {
    read_image(g, dresult, c, dout);
    read_image(g, saved[0], c, y);
    read_image(g, in[0], c, x);
    half.backward(y, dout, grad, d + 1 + kHalf, [](int) {});  // of y
    attention.backward(
        normal, [&](int r) { norm.forward<Operand>(g, x, normal, r); }, grad, y, d + 1 + kAttention,
        [&](int r) { norm.backward(g, x, y, grad, dout, half.sums, r); });
    norm.weight_gradients(half.sums, d[1], d[2]);
    if (d[0]) write_image(g, dout, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
