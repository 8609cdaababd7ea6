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

  // Of the pixels that lanes cover, to operands; channels lie `in_step`, units `out_step` floats apart.
  template <class Operand = Fp32, class Lanes>
  SM_INLINE void pixels(const float* in, int64_t in_step, float* out, int64_t out_step, Lanes lanes) const {
    constexpr int U = Lanes::vectors;
    vf mean[U], rest[U], scale[U];
    norm_statistics<U>(
        channels, eps, [&](int c, int u) SM_LAMBDA_INLINE { return lanes.get(in + c * in_step, u); }, mean,
        rest, scale);
    auto normal = [&](int c, int u) SM_LAMBDA_INLINE {
      const vf centred = lanes.get(in + c * in_step, u) - mean[u] - rest[u];
      return centred * scale[u] * splat(weight[c]) + splat(bias[c]);
    };
    for (int c = 0; c < channels; c += Operand::kPack)
      for (int u = 0; u < U; ++u) {
        if constexpr (Operand::kPack == 1)
          lanes.put(out + c * out_step, u, normal(c, u));
        else
          Operand::put({out, out_step}, c, u * VL, normal(c, u), c + 1 < channels ? normal(c + 1, u) : vf{});
      }
  }

  // Row r.
  template <class Operand = Fp32>
  void forward(const Geometry& g, const Field& in, const Field& out, int r) const {
    over_vectors<4>(g.padded_w, [&](int64_t x, auto lanes) {
      pixels<Operand>(in.at(0, r, (int)x), in.pitch, out.at(0, r, (int)x), out.pitch, lanes);
    });
    zero_columns(out.row(r), units<Operand>(channels), g.w, g.padded_w);
  }

  // Floats of `sums` below.
  static size_t sums(int channels) { return (size_t)4 * VL * channels; }

  // Row r of dx = skip + gradient of `in` from `grad`.  Rows come in order; what they add to the weights'
  // gradients is kept in `sums`.
  void backward(const Geometry& g, const Field& in, const Field& grad, const Field& skip, const Field& dx,
                float* sums, int r) const {
    const int floats = 2 * VL * channels;  // two vectors per channel: of a few rows, behind them of all
    float* const totals = sums + floats;
    if (r == 0) memset(totals, 0, sizeof(float) * floats);
    if (r % kSumRows == 0) memset(sums, 0, sizeof(float) * floats);
    int x = 0;
    for (; x + 2 * VL <= g.padded_w; x += 2 * VL) backward_vectors<2>(g, in, grad, skip, dx, sums, r, x);
    for (; x < g.padded_w; x += VL) backward_vectors<1>(g, in, grad, skip, dx, sums, r, x);
    zero_columns(dx.row(r), channels, g.w, g.padded_w);
    if (r % kSumRows == kSumRows - 1 || r == g.h - 1)
      for (int i = 0; i < floats; i += VL) store(totals + i, load(totals + i) + load(sums + i));
  }

  // Behind the last row.
  void weight_gradients(const float* sums, float* dweight, float* dbias) const {
    const float* const totals = sums + 2 * VL * channels;
    for (int c = 0; c < channels; ++c) {
      dweight[c] = (float)exact_sum(load(totals + 2 * VL * c));
      dbias[c] = (float)exact_sum(load(totals + 2 * VL * c + VL));
    }
  }

 private:
  template <int U>
  SM_INLINE void backward_vectors(const Geometry& g, const Field& in, const Field& grad, const Field& skip,
                                  const Field& dx, float* sums, int r, int x) const {
    vf mean[U], rest[U], scale[U], sum[U], product[U];
    norm_statistics<U>(
        channels, eps, [&](int c, int u) SM_LAMBDA_INLINE { return load(in.at(c, r, x + u * VL)); }, mean,
        rest, scale);
    for (int u = 0; u < U; ++u) {
      sum[u] = product[u] = vf{};
      const int left = g.w - x - u * VL;  // outside the image eps may be all there is
      if (left < VL) scale[u] = keep_range(scale[u], 0, left > 0 ? left : 0);
    }
    auto normal = [&](int c, int u) SM_LAMBDA_INLINE {
      return (load(in.at(c, r, x + u * VL)) - mean[u] - rest[u]) * scale[u];
    };
    for (int c = 0; c < channels; ++c) {
      vf of_weight = {}, of_bias = {};
      for (int u = 0; u < U; ++u) {
        const vf n = normal(c, u), slope = load(grad.at(c, r, x + u * VL));
        of_weight += slope * n;
        of_bias += slope;
        sum[u] += slope * weight[c];
        product[u] += slope * weight[c] * n;
      }
      float* const of_channel = sums + 2 * VL * c;
      store(of_channel, load(of_channel) + of_weight);
      store(of_channel + VL, load(of_channel + VL) + of_bias);
    }
    for (int u = 0; u < U; ++u) sum[u] *= 1.0f / channels, product[u] *= 1.0f / channels;
    for (int c = 0; c < channels; ++c)
      for (int u = 0; u < U; ++u) {
        const int at = x + u * VL;
        const vf own = scale[u] * (load(grad.at(c, r, at)) * weight[c] - sum[u] - normal(c, u) * product[u]);
        store(dx.at(c, r, at), load(skip.at(c, r, at)) + own);
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
    arena.fields(g, norm.channels, x, dy, dx);
    none = arena.zeros(g);
    sums = arena.floats(Norm::sums(norm.channels));
  }
  void backward(const float* grad, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], norm.channels, x);
    read_image(g, grad, norm.channels, dy);
    for (int r = 0; r < g.h; ++r) norm.backward(g, x, dy, none, dx, sums, r);
    norm.weight_gradients(sums, d[1], d[2]);
    if (d[0]) write_image(g, dx, norm.channels, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
