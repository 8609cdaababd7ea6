// LayerNorm over the channels of each pixel: vectors hold neighbouring pixels.
#pragma once

#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"
#include "cpu/ops/field.h"
#include "cpu/ops/matrices.h"
#include "cpu/ops/op.h"
#include "cpu/rows/norm.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

struct Norm {
  static constexpr int kWeights = 2;
  const float *weight, *bias;  // [channels]
  float eps;
  int channels;

  static constexpr Sizes<kWeights> sizes(int64_t c) { return sizes_of(c, c); }

  // Of the pixels that lanes cover; channels lie `in_step` and `out_step` floats apart.
  template <class Lanes>
  SM_INLINE void pixels(const float* in, int64_t in_step, float* out, int64_t out_step, Lanes lanes) const {
    constexpr int U = Lanes::vectors;
    vf mean[U], rest[U], scale[U];
    norm_statistics<U>(
        channels, eps, [&](int c, int u) SM_LAMBDA_INLINE { return lanes.get(in + c * in_step, u); }, mean,
        rest, scale);
    for (int c = 0; c < channels; ++c) {
      const vf w = splat(weight[c]), b = splat(bias[c]);
      for (int u = 0; u < U; ++u) {
        const vf centred = lanes.get(in + c * in_step, u) - mean[u] - rest[u];
        lanes.put(out + c * out_step, u, centred * scale[u] * w + b);
      }
    }
  }

  void forward(const Geometry& g, const Field& in, const Field& out) const {
    for (int r = 0; r < g.h; ++r)
      over_vectors<4>(g.padded_w, [&](int64_t x, auto lanes) {
        pixels(in.at(0, r, (int)x), in.pitch, out.at(0, r, (int)x), out.pitch, lanes);
      });
    mask(g, out, channels);
  }

  // Floats of `sums` below.
  static size_t sums(int channels) { return (size_t)4 * VL * channels; }

  // dx = skip + gradient of `in` from `grad`.
  void backward(const Geometry& g, const Field& in, const Field& grad, const Field& skip, const Field& dx,
                float* sums, float* dweight, float* dbias) const {
    const int floats = 2 * VL * channels;  // two vectors per channel: of a few rows, behind them of all
    float* const totals = sums + floats;
    memset(totals, 0, sizeof(float) * floats);
    for (int r0 = 0; r0 < g.h; r0 += kSumRows) {
      memset(sums, 0, sizeof(float) * floats);
      for (int r = r0; r < g.h && r < r0 + kSumRows; ++r)
        for (int x = 0; x < g.padded_w; x += VL) backward_vector(g, in, grad, skip, dx, sums, r, x);
      for (int i = 0; i < floats; i += VL) store(totals + i, load(totals + i) + load(sums + i));
    }
    mask(g, dx, channels);
    for (int c = 0; c < channels; ++c) {
      dweight[c] = (float)exact_sum(load(totals + 2 * VL * c));
      dbias[c] = (float)exact_sum(load(totals + 2 * VL * c + VL));
    }
  }

 private:
  SM_INLINE void backward_vector(const Geometry& g, const Field& in, const Field& grad, const Field& skip,
                                 const Field& dx, float* sums, int r, int x) const {
    vf mean[1], rest[1], scale[1], sum = {}, product = {};
    norm_statistics<1>(
        channels, eps, [&](int c, int) SM_LAMBDA_INLINE { return load(in.at(c, r, x)); }, mean, rest, scale);
    // Outside the image eps may be all there is.
    if (x + VL > g.w) scale[0] = keep_range(scale[0], 0, g.w > x ? g.w - x : 0);
    auto normal = [&](int c)
                      SM_LAMBDA_INLINE { return (load(in.at(c, r, x)) - mean[0] - rest[0]) * scale[0]; };
    for (int c = 0; c < channels; ++c) {
      const vf n = normal(c), slope = load(grad.at(c, r, x));
      float* const of_channel = sums + 2 * VL * c;
      store(of_channel, load(of_channel) + slope * n);
      store(of_channel + VL, load(of_channel + VL) + slope);
      sum += slope * weight[c];
      product += slope * weight[c] * n;
    }
    sum *= 1.0f / channels;
    product *= 1.0f / channels;
    for (int c = 0; c < channels; ++c) {
      const vf own = scale[0] * (load(grad.at(c, r, x)) * weight[c] - sum - normal(c) * product);
      store(dx.at(c, r, x), load(skip.at(c, r, x)) + own);
    }
  }
};

struct LayerNorm2d {
  static constexpr int kImages = 1;
  static int64_t reach(const sm_op_params&) { return 0; }
  static auto sizes(const sm_op_params& p) { return Norm::sizes(p.c); }
  static auto saved(const sm_op_params&) { return sizes_of(); }

  static bool forward_all(const sm_op_params& p) {
    const int64_t plane = p.h * p.w, blocks = ceil_div(plane, kTaskPixels);
    const Norm norm = {p.inputs[1], p.inputs[2], p.eps, (int)p.c};
    run_tasks(p.threads, p.n * blocks, [&](int64_t task, int) {
      const int64_t first = task % blocks * kTaskPixels;
      const int64_t at = task / blocks * p.c * plane + first;
      over_vectors<4>(least(kTaskPixels, plane - first), [&](int64_t i, auto lanes) {
        norm.pixels(p.inputs[0] + at + i, plane, p.outputs[0] + at + i, plane, lanes);
      });
    });
    return true;
  }

  const Geometry& g;
  Norm norm;
  Field x, dy, dx, none;
  float* sums;

  LayerNorm2d(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_), norm{w[0], w[1], p.eps, (int)p.c} {
    arena.fields(g, norm.channels, false, x, dy, dx, none);
    sums = arena.floats(Norm::sums(norm.channels));
  }
  void backward(const float* grad, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], norm.channels, x);
    read_image(g, grad, norm.channels, dy);
    norm.backward(g, x, dy, none, dx, sums, d[1], d[2]);
    if (d[0]) write_image(g, dx, norm.channels, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
