// Matrices over the pixels of one image: 1x1 and 3x3 convolutions, and sums of products, which are their
// gradients.  A gradient field is 0 outside the image, so sums over it need no borders.
#pragma once

#include "cpu/ops/field.h"
#include "cpu/rows/gemm.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// Packs weight(row, column, tap) for gemm.h; `bias` may be null.
template <class F>
Matrix pack(Arena& arena, int rows, int columns, int taps, const float* bias, const F& weight) {
  Matrix out;
  out.m = round_up(rows, 4);
  out.k = columns;
  out.taps = taps;
  Arena& to = arena.weights ? *arena.weights : arena;
  float* const b = to.floats(out.m);
  float* packed = to.floats((size_t)out.m * columns * taps);
  out.bias = b;
  out.weight = packed;
  if (!to.base || !to.fresh) return out;
  for (int row = 0; row < out.m; ++row) b[row] = bias && row < rows ? bias[row] : 0.0f;
  for (int block = 0; block < out.m; block += kBlock) {
    const int end = block + kBlock < out.m ? block + kBlock : out.m;
    for (int tap = 0; tap < taps; ++tap)
      for (int column = 0; column < columns; ++column)
        for (int row = block; row < end; ++row) *packed++ = row < rows ? weight(row, column, tap) : 0.0f;
  }
  return out;
}

// A 3x3 convolution's weight [rows, columns, 3, 3], and what its gradient takes.
inline Matrix pack_3x3(Arena& arena, int rows, int columns, const float* weight, const float* bias) {
  return pack(arena, rows, columns, 9, bias,
              [=](int m, int k, int tap) { return weight[(m * columns + k) * 9 + tap]; });
}

inline Matrix pack_3x3_transposed(Arena& arena, int rows, int columns, const float* weight) {
  return pack(arena, columns, rows, 9, nullptr,
              [=](int m, int k, int tap) { return weight[(k * columns + m) * 9 + 8 - tap]; });
}

// weight [rows, columns] as it is, and transposed.
inline Matrix pack_matrix(Arena& arena, int rows, int columns, const float* weight, const float* bias) {
  return pack(arena, rows, columns, 1, bias, [=](int m, int k, int) { return weight[m * columns + k]; });
}

inline Matrix pack_transposed(Arena& arena, int rows, int columns, const float* weight) {
  return pack(arena, columns, rows, 1, nullptr, [=](int m, int k, int) { return weight[k * columns + m]; });
}

// A row of out = W in + b, and what E adds: 1x1, and 3x3.
template <Epilogue E = Epilogue::kStore>
void convolve(const Geometry& g, const Matrix& a, const Row& in, const Row& out,
              const Row& residual = Row()) {
  matmul<Fp32, E>(a, one_tap(in), 0, g.padded_w, out, residual);
}

inline void convolve_3x3(const Geometry& g, const Matrix& a, const Field& in, int r, const Row& out) {
  const Row rows[3] = {in.row(r - 1), in.row(r), in.row(r + 1)};
  matmul<Fp32, Epilogue::kStore>(a, nine_taps(rows), 0, g.padded_w, out);
}

// ---- Sums over pixels ------------------------------------------------------------------------------------
//
// Of a few rows in one vector, these in another, its lanes in double: the error hardly grows with the image.

constexpr int kSumRows = VL == 4 ? 1 : 4;  // a short vector's lane takes more of a row

// Tile of products that are summed: as many accumulators as registers leave room for.
constexpr int kMatrixX = kRegisters == 32 ? 6 : 3, kMatrixY = 4;

// Rows of a block: four channels' stay in the L1 cache while all others pass by.  Blocks' sums are added in
// float, so there are few of them.
inline int block_rows(const Geometry& g) {
  constexpr int kChannelFloats = 1024, kMostBlocks = 16;
  const int in_cache = kChannelFloats / g.padded_w, few = (g.h + kMostBlocks - 1) / kMostBlocks;
  return round_up(in_cache > few ? in_cache : few, kSumRows);
}

// out(i, j) = sum over pixels of y[i] * x[j], for i < count_y, j < count_x.  y(i), x(j): where channel i, or
// shifted channel j, of row 0 starts; rows follow at the fields' strides.
template <int kTileY, int kTileX, class Y, class X, class Out>
void correlate(const Geometry& g, int count_y, ptrdiff_t stride_y, const Y& y, int count_x,
               ptrdiff_t stride_x, const X& x, const Out& out) {
  const int rows = block_rows(g);
  for (int first = 0; first < g.h; first += rows) {
    const int last = first + rows < g.h ? first + rows : g.h;
    for (int i0 = 0; i0 < count_y; i0 += kTileY) {
      const float* from_y[kTileY];
      for (int i = 0; i < kTileY; ++i) from_y[i] = y(i0 + i < count_y ? i0 + i : i0);
      for (int j0 = 0; j0 < count_x; j0 += kTileX) {
        const float* from_x[kTileX];
        for (int j = 0; j < kTileX; ++j) from_x[j] = x(j0 + j < count_x ? j0 + j : j0);
        vf total[kTileY][kTileX] = {};
        for (int r0 = first; r0 < last; r0 += kSumRows) {
          const int end = r0 + kSumRows < last ? r0 + kSumRows : last;
          vf sum[kTileY][kTileX] = {};
          for (int r = r0; r < end; ++r)
            for (int column = 0; column < g.padded_w; column += VL) {
              vf vx[kTileX];
              for (int j = 0; j < kTileX; ++j) vx[j] = load_once(from_x[j] + r * stride_x + column);
              SM_UNROLL(4)
              for (int i = 0; i < kTileY; ++i) {
                const vf vy = load_once(from_y[i] + r * stride_y + column);
                SM_UNROLL(11)
                for (int j = 0; j < kTileX; ++j) sum[i][j] += vy * vx[j];
              }
            }
          for (int i = 0; i < kTileY; ++i)
            for (int j = 0; j < kTileX; ++j) total[i][j] += sum[i][j];
        }
        for (int i = 0; i < kTileY && i0 + i < count_y; ++i)
          for (int j = 0; j < kTileX && j0 + j < count_x; ++j) {
            float& to = out(i0 + i, j0 + j);
            to = (float)(exact_sum(total[i][j]) + (first ? to : 0.0f));
          }
      }
    }
  }
}

// Gradient of a 1x1 convolution's weight, out [rows, columns].
inline void matrix_gradient(const Geometry& g, const Field& grad, int rows, const Field& in, int columns,
                            float* out) {
  correlate<kMatrixY, kMatrixX>(
      g, rows, grad.stride, [&](int i) { return grad.at(i, 0, 0); }, columns, in.stride,
      [&](int j) { return in.at(j, 0, 0); }, [&](int i, int j) -> float& { return out[i * columns + j]; });
}

// Gradient of a 3x3 convolution's weight, out [rows, columns, 3, 3]; `in` has a halo.
inline void gradient_3x3(const Geometry& g, const Field& grad, int rows, const Field& in, int columns,
                         float* out) {
  correlate<kMatrixY, kMatrixX>(
      g, rows, grad.stride, [&](int i) { return grad.at(i, 0, 0); }, 9 * columns, in.stride,
      [&](int j) { return in.at(j / 9, j % 9 / 3 - 1, j % 3 - 1); },
      [&](int i, int j) -> float& { return out[i * 9 * columns + j]; });
}

// out [channels] = sums over the pixels of a gradient.
inline void bias_gradient(const Geometry& g, const Field& grad, int channels, float* out) {
  for (int c = 0; c < channels; ++c) {
    vf total = {};
    for (int r0 = 0; r0 < g.h; r0 += kSumRows) {
      const int end = r0 + kSumRows < g.h ? r0 + kSumRows : g.h;
      vf sum[2] = {};
      for (int r = r0; r < end; ++r)
        for (int x = 0; x < g.padded_w; x += VL) sum[x / VL % 2] += load(grad.at(c, r, x));
      total += sum[0] + sum[1];
    }
    out[c] = (float)exact_sum(total);
  }
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
