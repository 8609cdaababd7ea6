// LayerNorm over channels: each pixel's C values lie a plane apart, so vectors hold neighbouring pixels.
#pragma once

#include "cpu/isa/dispatch.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"

namespace seemore {
namespace SM_ISA {

// Two passes for the statistics, for a one-pass sum of squares cancels where |mean| is far above the
// deviation. `rest`, what the rounded mean left over, corrects both: it matters for the same pixels.
template <class Lanes>
SM_INLINE void normalize_pixels(const sm_layer_norm2d_params& p, const float* x, float* out, Lanes lanes) {
  constexpr int U = Lanes::vectors;
  const int64_t plane = p.h * p.w;
  const vf inverse = splat(1.0f / (float)p.c);

  vf mean[U] = {}, rest[U] = {}, scale[U] = {};
  for (int64_t c = 0; c < p.c; ++c)
    for (int u = 0; u < U; ++u) mean[u] += lanes.get(x + c * plane, u);
  for (int u = 0; u < U; ++u) mean[u] *= inverse;
  for (int64_t c = 0; c < p.c; ++c)
    for (int u = 0; u < U; ++u) {
      const vf centred = lanes.get(x + c * plane, u) - mean[u];
      rest[u] += centred;
      scale[u] += centred * centred;
    }
  for (int u = 0; u < U; ++u) {
    rest[u] *= inverse;
    scale[u] = rsqrt(vmax(vf{}, scale[u] * inverse - rest[u] * rest[u]) + p.eps);
  }
  for (int64_t c = 0; c < p.c; ++c) {
    const vf weight = splat(p.weight[c]), bias = splat(p.bias[c]);
    for (int u = 0; u < U; ++u) {
      const vf centred = lanes.get(x + c * plane, u) - mean[u] - rest[u];
      lanes.put(out + c * plane, u, centred * scale[u] * weight + bias);
    }
  }
}

static bool layer_norm2d(const sm_layer_norm2d_params& p) {
  const int64_t plane = p.h * p.w, blocks = ceil_div(plane, kTaskPixels);
  run_tasks(p.threads, p.n * blocks, [&](int64_t task, int) {
    const int64_t first = task % blocks * kTaskPixels;
    const int64_t at = task / blocks * p.c * plane + first;
    over_vectors<4>(least(kTaskPixels, plane - first),
                    [&](int64_t i, auto lanes) { normalize_pixels(p, p.x + at + i, p.out + at + i, lanes); });
  });
  return true;
}

}  // namespace SM_ISA
}  // namespace seemore
