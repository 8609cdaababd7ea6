// LayerNorm of a row, over the channels of each pixel.
#pragma once

#include "cpu/rows/operand.h"

namespace seemore {
namespace SM_ISA {

constexpr float kNormEps = 1e-6f;

// (x - mean) / sqrt(variance + eps) over the channels of each pixel, two passes; affine where given.
template <class Op>
SM_INLINE void layer_norm(const Row& in, const Row& out, int dim, int padded_dim, const float* weight,
                          const float* bias, int x0, int x1) {
  each_column(x0, x1, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
    vf mean[N] = {}, scale[N] = {};
    for (int c = 0; c < dim; ++c)
      for (int v = 0; v < N; ++v) mean[v] += load(in.at(c, x + v * VL));
    for (int v = 0; v < N; ++v) mean[v] *= 1.0f / dim;
    for (int c = 0; c < dim; ++c)
      for (int v = 0; v < N; ++v) {
        const vf d = load(in.at(c, x + v * VL)) - mean[v];
        scale[v] += d * d;
      }
    for (int v = 0; v < N; ++v) scale[v] = rsqrt(scale[v] * (1.0f / dim) + kNormEps);
    auto normal = [&](int c, int v) SM_LAMBDA_INLINE {
      if (c >= dim) return vf{};
      const vf n = (load(in.at(c, x + v * VL)) - mean[v]) * scale[v];
      return weight ? n * weight[c] + bias[c] : n;
    };
    for (int c = 0; c < padded_dim; c += 2)
      for (int v = 0; v < N; ++v) {
        Op::put(out, c, x + v * VL, normal(c, v), normal(c + 1, v));
        // The next columns arrive while the products of these are made.
        __builtin_prefetch(in.at(c, x + (N + v) * VL));
        __builtin_prefetch(in.at(c + 1, x + (N + v) * VL));
      }
  });
}

}  // namespace SM_ISA
}  // namespace seemore
