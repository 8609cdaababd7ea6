// Calibration: k + resize(conv_1(conv_0(agg(... agg(k))))).
#pragma once

#include "cpu/isa/gelu.h"
#include "cpu/isa/lanes.h"
#include "cpu/ops/op.h"
#include "cpu/rows/resize.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// w: agg, conv_0, conv_1, each weight and bias.
struct CoarseContext {
  static constexpr int kWeights = 6;
  static constexpr int kLevels = 16;
  const Geometry& g;
  int c, levels;
  Weights w;
  int h[kLevels + 1], wd[kLevels + 1];  // sizes, full resolution first
  // Low-resolution maps [channels][h][w]: before and after GELU at each level (the first is k's copy), after
  // conv_0, and after conv_1.
  float *in[kLevels + 1], *value[kLevels + 1], *mixed, *coarse, *across;
  float *grad[kLevels + 1], *grad_mixed;
  Tap2 *rows, *columns;

  static constexpr Sizes<kWeights> sizes(int64_t c) { return sizes_of(16 * c, c, 9 * c, c, c * c, c); }

  CoarseContext(Arena& arena, const Geometry& g_, int c_, int recursive, Weights w_)
      : g(g_), c(c_), levels(recursive), w(w_) {
    h[0] = g.h;
    wd[0] = g.w;
    for (int i = 0; i <= levels; ++i) {
      if (i) h[i] = h[i - 1] / 4, wd[i] = wd[i - 1] / 4;
      const size_t size = (size_t)c * h[i] * wd[i];
      in[i] = arena.floats(i ? size : 0);
      value[i] = arena.floats(size);
      grad[i] = arena.floats(size);
    }
    const size_t low = (size_t)c * h[levels] * wd[levels];
    mixed = arena.floats(low);
    coarse = arena.floats(low);
    grad_mixed = arena.floats(low);
    across = arena.floats((size_t)c * h[levels] * g.padded_w);
    rows = reinterpret_cast<Tap2*>(arena.floats(2 * g.h));
    columns = reinterpret_cast<Tap2*>(arena.floats(2 * g.w));
    if (!arena.base) return;
    for (int y = 0; y < g.h; ++y) rows[y] = bilinear_tap(y, h[levels], g.h);
    for (int x = 0; x < g.w; ++x) columns[x] = bilinear_tap(x, wd[levels], g.w);
  }

  int next(int low, int size) const { return low + 1 < size ? low + 1 : low; }

  void forward(const Field& k, const Field& out) {
    write_image(g, k, c, value[0]);
    for (int i = 1; i <= levels; ++i) aggregate(i);
    const int lh = h[levels], lw = wd[levels];
    const int64_t pixels = (int64_t)lh * lw;
    depthwise(false, value[levels], mixed);
    for (int m = 0; m < c; ++m) {
      float* const to = coarse + m * pixels;
      for (int64_t p = 0; p < pixels; ++p) to[p] = w[5][m];
      for (int j = 0; j < c; ++j)
        for (int64_t p = 0; p < pixels; ++p) to[p] += w[4][m * c + j] * mixed[j * pixels + p];
    }
    for (int row = 0; row < c * lh; ++row) {
      const float* const from = coarse + (size_t)row * lw;
      float* const to = across + (size_t)row * g.padded_w;
      for (int x = 0; x < g.w; ++x) {
        const Tap2 tap = columns[x];
        to[x] = from[tap.low] + tap.weight * (from[next(tap.low, lw)] - from[tap.low]);
      }
    }
    each_vector(g, c, [&](int m, int r, int x) SM_LAMBDA_INLINE {
      const float* const of_channel = across + (size_t)m * lh * g.padded_w + x;
      const vf a = load(of_channel + (size_t)rows[r].low * g.padded_w);
      const vf b = load(of_channel + (size_t)next(rows[r].low, lh) * g.padded_w);
      store(out.at(m, r, x), load(k.at(m, r, x)) + a + rows[r].weight * (b - a));
    });
    mask(g, out, c);
  }

  // After forward: dk from dy; they may be the same.
  void backward(const Field& dy, const Field& dk, Gradients d) {
    const int lh = h[levels], lw = wd[levels];
    const int64_t pixels = (int64_t)lh * lw;
    memset(across, 0, sizeof(float) * c * lh * g.padded_w);
    each_vector(g, c, [&](int m, int r, int x) SM_LAMBDA_INLINE {
      float* const of_channel = across + (size_t)m * lh * g.padded_w + x;
      float* const a = of_channel + (size_t)rows[r].low * g.padded_w;
      float* const b = of_channel + (size_t)next(rows[r].low, lh) * g.padded_w;
      const vf slope = load(dy.at(m, r, x));
      store(a, load(a) + slope * (1.0f - rows[r].weight));
      store(b, load(b) + slope * rows[r].weight);
    });
    memset(coarse, 0, sizeof(float) * c * pixels);
    for (int row = 0; row < c * lh; ++row) {
      const float* const from = across + (size_t)row * g.padded_w;
      float* const to = coarse + (size_t)row * lw;
      for (int x = 0; x < g.w; ++x) {
        const Tap2 tap = columns[x];
        to[tap.low] += from[x] * (1.0f - tap.weight);
        to[next(tap.low, lw)] += from[x] * tap.weight;
      }
    }
    memset(grad_mixed, 0, sizeof(float) * c * pixels);
    for (int m = 0; m < c; ++m) {
      const float* const slope = coarse + m * pixels;
      d[5][m] = sum(slope, pixels);
      for (int j = 0; j < c; ++j) {
        float product = 0;
        for (int64_t p = 0; p < pixels; ++p) product += slope[p] * mixed[j * pixels + p];
        d[4][m * c + j] = product;
        for (int64_t p = 0; p < pixels; ++p) grad_mixed[j * pixels + p] += w[4][m * c + j] * slope[p];
      }
    }
    depthwise_gradient(value[levels], d[2], d[3]);
    depthwise(true, grad_mixed, grad[levels]);
    memset(d[0], 0, sizeof(float) * c * 16);
    memset(d[1], 0, sizeof(float) * c);
    for (int i = levels; i > 0; --i) aggregate_gradient(i, d[0], d[1]);
    for (int m = 0; m < c; ++m)
      for (int r = 0; r < g.h; ++r)
        over_vectors<1>(g.w, [&](int64_t x, auto lanes) {
          const vf own = lanes.get(grad[0] + ((size_t)m * g.h + r) * g.w + x, 0);
          lanes.put(dk.at(m, r, x), 0, lanes.get(dy.at(m, r, x), 0) + own);
        });
  }

 private:
  static float sum(const float* p, int64_t count) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += p[i];
    return (float)total;
  }

  void aggregate(int i) {
    const int from_w = wd[i - 1], to_h = h[i], to_w = wd[i];
    for (int m = 0; m < c; ++m) {
      const float* const tap = w[0] + m * 16;
      const float* const from = value[i - 1] + (size_t)m * h[i - 1] * from_w;
      float* const to = in[i] + (size_t)m * to_h * to_w;
      for (int y = 0; y < to_h; ++y)
        for (int x = 0; x < to_w; ++x) {
          float total = w[1][m];
          for (int t = 0; t < 16; ++t) total += tap[t] * from[(4 * y + t / 4) * from_w + 4 * x + t % 4];
          to[y * to_w + x] = total;
        }
    }
    over_vectors<1>((int64_t)c * to_h * to_w, [&](int64_t p, auto lanes) {
      lanes.put(value[i] + p, 0, exact_gelu(lanes.get(in[i] + p, 0)));
    });
  }

  // grad[i - 1] from grad[i]; adds to the gradients of agg, which all levels share.
  void aggregate_gradient(int i, float* weight, float* bias) {
    const int from_w = wd[i - 1], to_h = h[i], to_w = wd[i];
    const size_t from_size = (size_t)h[i - 1] * from_w;
    memset(grad[i - 1], 0, sizeof(float) * c * from_size);
    over_vectors<1>((int64_t)c * to_h * to_w, [&](int64_t p, auto lanes) {
      lanes.put(grad[i] + p, 0, lanes.get(grad[i] + p, 0) * GeluAt(lanes.get(in[i] + p, 0)).slope);
    });
    for (int m = 0; m < c; ++m) {
      const float* const tap = w[0] + m * 16;
      const float* const from = value[i - 1] + m * from_size;
      float* const to = grad[i - 1] + m * from_size;
      const float* const slopes = grad[i] + (size_t)m * to_h * to_w;
      float sums[16] = {};
      for (int y = 0; y < to_h; ++y)
        for (int x = 0; x < to_w; ++x) {
          const float slope = slopes[y * to_w + x];
          for (int t = 0; t < 16; ++t) {
            const int at = (4 * y + t / 4) * from_w + 4 * x + t % 4;
            sums[t] += slope * from[at];
            to[at] = slope * tap[t];
          }
        }
      for (int t = 0; t < 16; ++t) weight[m * 16 + t] += sums[t];
      bias[m] += sum(slopes, to_h * to_w);
    }
  }

  // conv_0, or its gradient where `transposed`.
  void depthwise(bool transposed, const float* from, float* to) const {
    const int lh = h[levels], lw = wd[levels];
    for (int m = 0; m < c; ++m, from += lh * lw, to += lh * lw)
      for (int y = 0; y < lh; ++y)
        for (int x = 0; x < lw; ++x) {
          float total = transposed ? 0.0f : w[3][m];
          for (int t = 0; t < 9; ++t) {
            const int i = y + t / 3 - 1, j = x + t % 3 - 1;
            if (i >= 0 && i < lh && j >= 0 && j < lw)
              total += w[2][m * 9 + (transposed ? 8 - t : t)] * from[i * lw + j];
          }
          to[y * lw + x] = total;
        }
  }

  void depthwise_gradient(const float* from, float* weight, float* bias) const {
    const int lh = h[levels], lw = wd[levels];
    for (int m = 0; m < c; ++m) {
      const float* const slope = grad_mixed + (size_t)m * lh * lw;
      const float* const value_ = from + (size_t)m * lh * lw;
      for (int t = 0; t < 9; ++t) {
        float total = 0;
        for (int y = 0; y < lh; ++y)
          for (int x = 0; x < lw; ++x) {
            const int i = y + t / 3 - 1, j = x + t % 3 - 1;
            if (i >= 0 && i < lh && j >= 0 && j < lw) total += slope[y * lw + x] * value_[i * lw + j];
          }
        weight[m * 9 + t] = total;
      }
      bias[m] = sum(slope, lh * lw);
    }
  }
};

struct Calibrate : PartOp<CoarseContext> {
  static int64_t reach(const sm_op_params&) { return 0; }
  static auto sizes(const sm_op_params& p) { return CoarseContext::sizes(p.c); }

  Calibrate(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w_)
      : PartOp(arena, g, (int)p.c, (int)p.recursive, w_) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    CoarseContext::forward(x, y);
    write_image(g, y, c, out[0]);
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    CoarseContext::forward(x, dx);
    read_image(g, grad_, c, y);
    mask(g, y, c);
    CoarseContext::backward(y, y, d + 1);
    if (d[0]) write_image(g, y, c, d[0]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
