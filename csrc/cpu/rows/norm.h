// LayerNorm of pixels, over their channels: the statistics, and a row of the engine's.
#pragma once

#include "cpu/rows/operand.h"

namespace seemore {
namespace SM_ISA {

constexpr float kNormEps = 1e-6f;  // the network's

// Of U vectors of pixels; get(c, u): vector u of channel c.  x - mean - rest is centred, times `scale`
// normal.
//
// Two passes, for a one-pass sum of squares cancels where |mean| is far above the deviation.  `rest`, what
// the rounded mean left over, corrects both: it matters for the same pixels.
template <int U, class Get>
SM_INLINE void norm_statistics(int channels, float eps, const Get& get, vf (&mean)[U], vf (&rest)[U],
                               vf (&scale)[U]) {
  const vf inverse = splat(1.0f / (float)channels);
  for (int u = 0; u < U; ++u) mean[u] = rest[u] = scale[u] = vf{};
  for (int c = 0; c < channels; ++c)
    for (int u = 0; u < U; ++u) mean[u] += get(c, u);
  for (int u = 0; u < U; ++u) mean[u] *= inverse;
  for (int c = 0; c < channels; ++c)
    for (int u = 0; u < U; ++u) {
      const vf centred = get(c, u) - mean[u];
      rest[u] += centred;
      scale[u] += centred * centred;
    }
  for (int u = 0; u < U; ++u) {
    rest[u] *= inverse;
    scale[u] = rsqrt(vmax(vf{}, scale[u] * inverse - rest[u] * rest[u]) + eps);
  }
}

// Of a row; affine where a weight is given.
template <class Op>
SM_INLINE void layer_norm(const Row& in, const Row& out, int dim, int padded_dim, const float* weight,
                          const float* bias, int x0, int x1) {
  each_column(x0, x1, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
    vf mean[N], rest[N], scale[N];
    norm_statistics<N>(
        dim, kNormEps, [&](int c, int v) SM_LAMBDA_INLINE { return load(in.at(c, x + v * VL)); }, mean, rest,
        scale);
    auto normal = [&](int c, int v) SM_LAMBDA_INLINE {
      if (c >= dim) return vf{};
      const vf n = (load(in.at(c, x + v * VL)) - mean[v] - rest[v]) * scale[v];
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
