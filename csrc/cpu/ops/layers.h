// Layers of the differentiable operators over one image: matrices, depthwise stencils, LayerNorm; forward,
// and their gradients.  A gradient field is 0 outside the image, so sums over it need no borders.
#pragma once

#include "cpu/ops/field.h"

namespace seemore {
namespace SM_ISA {

// ---- Matrices --------------------------------------------------------------------------------------------

// Packs weight(row, column, tap) for gemm.h; `bias` may be null.
template <class F>
Matrix pack(Arena& arena, int rows, int columns, int taps, const float* bias, const F& weight) {
  Matrix out;
  out.m = round_up(rows, 4);
  out.k = columns;
  out.taps = taps;
  float* const b = arena.floats(out.m);
  float* packed = arena.floats((size_t)out.m * columns * taps);
  out.bias = b;
  out.weight = packed;
  if (!arena.base) return out;
  for (int row = 0; row < out.m; ++row) b[row] = bias && row < rows ? bias[row] : 0.0f;
  for (int block = 0; block < out.m; block += kBlock) {
    const int end = block + kBlock < out.m ? block + kBlock : out.m;
    for (int tap = 0; tap < taps; ++tap)
      for (int column = 0; column < columns; ++column)
        for (int row = block; row < end; ++row) *packed++ = row < rows ? weight(row, column, tap) : 0.0f;
  }
  return out;
}

// weight [rows, columns] as it is, and transposed.
inline Matrix pack_matrix(Arena& arena, int rows, int columns, const float* weight, const float* bias) {
  return pack(arena, rows, columns, 1, bias, [=](int m, int k, int) { return weight[m * columns + k]; });
}

inline Matrix pack_transposed(Arena& arena, int rows, int columns, const float* weight) {
  return pack(arena, columns, rows, 1, nullptr, [=](int m, int k, int) { return weight[k * columns + m]; });
}

// out = W in + b, and what E adds; 1x1 or, by the matrix's taps, 3x3 (`in` has a halo then).
template <Epilogue E = Epilogue::kStore>
void convolve(const Geometry& g, const Matrix& a, const Field& in, const Field& out,
              const Field& residual = Field()) {
  for (int r = 0; r < g.h; ++r) {
    const Row rows[3] = {in.row(r - (a.taps == 9)), in.row(r), in.row(r + (a.taps == 9))};
    matmul<Fp32, E>(a, a.taps == 9 ? nine_taps(rows) : one_tap(rows[1]), 0, g.padded_w, out.row(r),
                    E == Epilogue::kResidual ? residual.row(r) : Row());
  }
}

// ---- Sums over pixels ------------------------------------------------------------------------------------

// Tile of products that are summed: as many accumulators as registers leave room for.
constexpr int kTileX = VL == 16 ? 6 : 2;

// out(i, j) = sum over pixels of y[i] * x[j], for i < count_y, j < count_x.  y(i), x(j): where channel i, or
// shifted channel j, of row 0 starts; rows follow at the fields' strides.
template <int kTileY, class Y, class X, class Out>
void correlate(const Geometry& g, int count_y, ptrdiff_t stride_y, const Y& y, int count_x,
               ptrdiff_t stride_x, const X& x, const Out& out) {
  for (int j0 = 0; j0 < count_x; j0 += kTileX) {
    const float* from_x[kTileX];
    for (int j = 0; j < kTileX; ++j) from_x[j] = x(j0 + j < count_x ? j0 + j : j0);
    for (int i0 = 0; i0 < count_y; i0 += kTileY) {
      const float* from_y[kTileY];
      for (int i = 0; i < kTileY; ++i) from_y[i] = y(i0 + i < count_y ? i0 + i : i0);
      vf sum[kTileY][kTileX] = {};
      for (int r = 0; r < g.h; ++r)
        for (int column = 0; column < g.padded_w; column += VL) {
          vf vx[kTileX];
          for (int j = 0; j < kTileX; ++j) vx[j] = load(from_x[j] + r * stride_x + column);
#pragma GCC unroll 4
          for (int i = 0; i < kTileY; ++i) {
            const vf vy = load(from_y[i] + r * stride_y + column);
#pragma GCC unroll 6
            for (int j = 0; j < kTileX; ++j) sum[i][j] += vy * vx[j];
          }
        }
      for (int i = 0; i < kTileY && i0 + i < count_y; ++i)
        for (int j = 0; j < kTileX && j0 + j < count_x; ++j) out(i0 + i, j0 + j, horizontal_sum(sum[i][j]));
    }
  }
}

// Gradient of a 1x1 convolution's weight, out [rows, columns].
inline void matrix_gradient(const Geometry& g, const Field& grad, int rows, const Field& in, int columns,
                            float* out) {
  correlate<4>(
      g, rows, grad.stride, [&](int i) { return grad.at(i, 0, 0); }, columns, in.stride,
      [&](int j) { return in.at(j, 0, 0); }, [&](int i, int j, float v) { out[i * columns + j] = v; });
}

// out [channels] = sums over the pixels of a gradient.
inline void bias_gradient(const Geometry& g, const Field& grad, int channels, float* out) {
  for (int c = 0; c < channels; ++c) {
    vf sum[2] = {};
    for (int r = 0; r < g.h; ++r)
      for (int x = 0; x < g.padded_w; x += VL) sum[x / VL % 2] += load(grad.at(c, r, x));
    out[c] = horizontal_sum(sum[0] + sum[1]);
  }
}

// ---- Depthwise stencils ----------------------------------------------------------------------------------

// `rows` x `columns` taps around the pixel; weight [channels, rows * columns].
struct Stencil {
  int rows, columns;
  const float* weight;
  const float* bias;

  int taps() const { return rows * columns; }
  ptrdiff_t offset(const Field& field, int tap) const {
    return (tap / columns - rows / 2) * field.stride + tap % columns - columns / 2;
  }
};

// out = stencil(in) + bias; or with `transposed` (weights turned about, no bias) its gradient.
inline void apply_stencil(const Geometry& g, const Stencil& s, bool transposed, const Field& in,
                          const Field& out, int channels) {
  const int taps = s.taps();
  for (int c = 0; c < channels; ++c) {
    const float* const w = s.weight + c * taps;
    const vf start = splat(transposed ? 0.0f : s.bias[c]);
    auto rows = [&]<int N>(Vectors<N>, int r) SM_LAMBDA_INLINE {
      for (int x = 0; x < g.padded_w; x += VL) {
        vf acc[N];
        for (int i = 0; i < N; ++i) acc[i] = start;
        for (int t = 0; t < taps; ++t) {
          const float* const from = in.at(c, r, x) + s.offset(in, t);
          const float tap = w[transposed ? taps - 1 - t : t];
          for (int i = 0; i < N; ++i) acc[i] += load(from + i * in.stride) * tap;
        }
        for (int i = 0; i < N; ++i) store(out.at(c, r + i, x), acc[i]);
      }
    };
    int r = 0;
    for (; r + 4 <= g.h; r += 4) rows(Vectors<4>(), r);
    for (; r < g.h; ++r) rows(Vectors<1>(), r);
  }
  mask(g, out, channels);
}

// Gradients of a stencil's weight and bias.
inline void stencil_gradient(const Geometry& g, const Stencil& s, const Field& grad, const Field& in,
                             int channels, float* weight, float* bias) {
  for (int c = 0; c < channels; ++c)
    correlate<1>(
        g, 1, grad.stride, [&](int) { return grad.at(c, 0, 0); }, s.taps(), in.stride,
        [&](int tap) { return in.at(c, 0, 0) + s.offset(in, tap); },
        [&](int, int tap, float v) { weight[c * s.taps() + tap] = v; });
  bias_gradient(g, grad, channels, bias);
}

// ---- LayerNorm -------------------------------------------------------------------------------------------

struct Norm {
  const float *weight, *bias;  // [channels]
  float eps;
  int channels;

  // The pixels' mean and 1 / deviation: two passes, as in layer_norm2d.h.
  SM_INLINE void statistics(const Geometry& g, const Field& in, int r, int x, vf& mean, vf& scale) const {
    vf sum = {}, rest = {}, squares = {};
    for (int c = 0; c < channels; ++c) sum += load(in.at(c, r, x));
    mean = sum * (1.0f / channels);
    for (int c = 0; c < channels; ++c) {
      const vf centred = load(in.at(c, r, x)) - mean;
      rest += centred;
      squares += centred * centred;
    }
    rest *= 1.0f / channels;
    scale = rsqrt(vmax(vf{}, squares * (1.0f / channels) - rest * rest) + eps);
    mean += rest;
    if (x + VL > g.w)
      scale = keep_range(scale, 0, g.w > x ? g.w - x : 0);  // outside, eps may be all there is
  }

  void forward(const Geometry& g, const Field& in, const Field& out) const {
    for (int r = 0; r < g.h; ++r)
      for (int x = 0; x < g.padded_w; x += VL) {
        vf mean, scale;
        statistics(g, in, r, x, mean, scale);
        for (int c = 0; c < channels; ++c)
          store(out.at(c, r, x), (load(in.at(c, r, x)) - mean) * scale * weight[c] + bias[c]);
      }
    mask(g, out, channels);
  }

  // dx = skip + gradient of `in` from `grad`; sums: room for 2 * channels vectors.
  void backward(const Geometry& g, const Field& in, const Field& grad, const Field& skip, const Field& dx,
                float* sums, float* dweight, float* dbias) const {
    memset(sums, 0, sizeof(float) * 2 * VL * channels);
    for (int r = 0; r < g.h; ++r)
      for (int x = 0; x < g.padded_w; x += VL) {
        vf mean, scale, sum = {}, product = {};
        statistics(g, in, r, x, mean, scale);
        for (int c = 0; c < channels; ++c) {
          const vf normal = (load(in.at(c, r, x)) - mean) * scale, slope = load(grad.at(c, r, x));
          float* const of_channel = sums + 2 * VL * c;
          store(of_channel, load(of_channel) + slope * normal);
          store(of_channel + VL, load(of_channel + VL) + slope);
          sum += slope * weight[c];
          product += slope * weight[c] * normal;
        }
        sum *= 1.0f / channels;
        product *= 1.0f / channels;
        for (int c = 0; c < channels; ++c) {
          const vf normal = (load(in.at(c, r, x)) - mean) * scale;
          const vf own = scale * (load(grad.at(c, r, x)) * weight[c] - sum - normal * product);
          store(dx.at(c, r, x), load(skip.at(c, r, x)) + own);
        }
      }
    mask(g, dx, channels);
    for (int c = 0; c < channels; ++c) {
      dweight[c] = horizontal_sum(load(sums + 2 * VL * c));
      dbias[c] = horizontal_sum(load(sums + 2 * VL * c + VL));
    }
  }
};

}  // namespace SM_ISA
}  // namespace seemore
