// Matrices over the pixels of one image: 1x1 and 3x3 convolutions, and sums of products, which are their
// gradients.  A gradient field is 0 outside the image, so sums over it need no borders.
#pragma once

#include "cpu/ops/field.h"
#include "cpu/rows/gemm.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// Packs weight(row, column, tap) for gemm.h; `bias` may be null.
template <class Operand = Fp32, class F>
Matrix pack(Arena& arena, int rows, int columns, int taps, const float* bias, const F& weight) {
  Matrix out;
  out.m = round_up(rows, 4);
  out.k = units<Operand>(columns);
  out.taps = taps;
  Arena& to = arena.weights ? *arena.weights : arena;
  float* const b = to.floats(out.m);
  float* packed = to.floats((size_t)out.m * out.k * taps);
  out.bias = b;
  out.weight = packed;
  if (!to.base || !to.fresh) return out;
  for (int row = 0; row < out.m; ++row) b[row] = bias && row < rows ? bias[row] : 0.0f;
  auto value = [&](int row, int column, int tap) {
    return row < rows && column < columns ? weight(row, column, tap) : 0.0f;
  };
  for (int block = 0; block < out.m; block += kBlock) {
    const int end = block + kBlock < out.m ? block + kBlock : out.m;
    for (int tap = 0; tap < taps; ++tap)
      for (int column = 0; column < columns; column += Operand::kPack)
        for (int row = block; row < end; ++row)
          *packed++ = Operand::unit(value(row, column, tap),
                                    Operand::kPack == 1 ? 0.0f : value(row, column + 1, tap));
  }
  return out;
}

// A 3x3 convolution's weight [rows, columns, 3, 3], and what its gradient takes.
template <class Operand = Fp32>
Matrix pack_3x3(Arena& arena, int rows, int columns, const float* weight, const float* bias) {
  return pack<Operand>(arena, rows, columns, 9, bias,
                       [=](int m, int k, int tap) { return weight[(m * columns + k) * 9 + tap]; });
}

template <class Operand = Fp32>
Matrix pack_3x3_transposed(Arena& arena, int rows, int columns, const float* weight) {
  return pack<Operand>(arena, columns, rows, 9, nullptr,
                       [=](int m, int k, int tap) { return weight[(k * columns + m) * 9 + 8 - tap]; });
}

// weight [rows, columns] as it is, and transposed.
template <class Operand = Fp32>
Matrix pack_matrix(Arena& arena, int rows, int columns, const float* weight, const float* bias) {
  return pack<Operand>(arena, rows, columns, 1, bias,
                       [=](int m, int k, int) { return weight[m * columns + k]; });
}

template <class Operand = Fp32>
Matrix pack_transposed(Arena& arena, int rows, int columns, const float* weight) {
  return pack<Operand>(arena, columns, rows, 1, nullptr,
                       [=](int m, int k, int) { return weight[k * columns + m]; });
}

// A row of out = W in + b, and what E adds: 1x1, and 3x3.  What is multiplied are operands.
template <class Operand = Fp32, Epilogue E = Epilogue::kStore>
void convolve(const Geometry& g, const Matrix& a, const Row& in, const Row& out,
              const Row& residual = Row()) {
  matmul<Operand, E>(a, one_tap(in), 0, g.padded_w, out, residual);
}

template <class Operand = Fp32, Epilogue E = Epilogue::kStore>
void convolve_3x3(const Geometry& g, const Matrix& a, const Field& in, int r, const Row& out,
                  const Row& residual = Row()) {
  const Row rows[3] = {in.row(r - 1), in.row(r), in.row(r + 1)};
  matmul<Operand, E, 0, kTapsApart<Operand>>(a, nine_taps(rows), 0, g.padded_w, out, residual);
}

// ---- Sums over pixels ------------------------------------------------------------------------------------
//
// Of a few rows in one vector, these in another, its lanes in double: the error hardly grows with the image.

constexpr int kSumRows = VL == 4 ? 1 : 4;  // a short vector's lane takes more of a row

// Tile of products that are summed, in units: as many accumulators as registers leave room for.
template <class Operand>
constexpr int kMatrixX = Operand::kPack == 2 || kRegisters == 16 ? 3 : 6;
template <class Operand>
constexpr int kMatrixY = Operand::kPack == 2 ? 3 : 4;

// Rows of a block: four channels' stay in the L1 cache while all others pass by.  Blocks' sums are added in
// float, so there are few of them.
inline int block_rows(const Geometry& g) {
  constexpr int kChannelFloats = 1024, kMostBlocks = 16;
  const int in_cache = kChannelFloats / g.padded_w, few = (g.h + kMostBlocks - 1) / kMostBlocks;
  return round_up(in_cache > few ? in_cache : few, kSumRows);
}

// out(i) [channels_x][taps] = sums over pixels of y's channel i times x's channels, at each tap shifted.
// y(i), x(j): where unit i of y, and j / taps of x at tap j % taps, of row 0 start; rows follow at the
// fields' strides. Right of the padded width y is 0.
template <class Operand, int kTileY, int kTileX, class Y, class X, class Out>
void correlate(const Geometry& g, int channels_y, ptrdiff_t stride_y, const Y& y, int channels_x, int taps,
               ptrdiff_t stride_x, const X& x, const Out& out) {
  constexpr int kPack = Operand::kPack;
  const int rows = block_rows(g), count_y = units<Operand>(channels_y);
  const int count_x = units<Operand>(channels_x) * taps;
  for (int first = 0; first < g.h; first += rows) {
    const int last = first + rows < g.h ? first + rows : g.h;
    for (int i0 = 0; i0 < count_y; i0 += kTileY) {
      const float* from_y[kTileY];
      for (int i = 0; i < kTileY; ++i) from_y[i] = y(i0 + i < count_y ? i0 + i : i0);
      for (int j0 = 0; j0 < count_x; j0 += kTileX) {
        const float* from_x[kTileX];
        for (int j = 0; j < kTileX; ++j) from_x[j] = x(j0 + j < count_x ? j0 + j : j0);
        vf total[kTileY][kPack][kTileX] = {};
        for (int r0 = first; r0 < last; r0 += kSumRows) {
          const int end = r0 + kSumRows < last ? r0 + kSumRows : last;
          vf sum[kTileY][kPack][kTileX] = {};
          for (int r = r0; r < end; ++r)
            for (int column = 0; column < g.padded_w; column += VL) {
              vf vx[kTileX];
              SM_UNROLL(11)
              for (int j = 0; j < kTileX; ++j) vx[j] = Operand::pixels(from_x[j] + r * stride_x + column);
              SM_UNROLL(4)
              for (int i = 0; i < kTileY; ++i) {
                vf vy[kPack];
                Operand::other_pixels(from_y[i] + r * stride_y + column, vy);
                SM_UNROLL(2)
                for (int part = 0; part < kPack; ++part) {
                  vf* const of_part = sum[i][part];
                  SM_UNROLL(11)
                  for (int j = 0; j < kTileX; ++j)
                    of_part[j] = Operand::multiply_add(of_part[j], vy[part], vx[j]);
                }
              }
            }
          for (int i = 0; i < kTileY; ++i)
            for (int part = 0; part < kPack; ++part)
              for (int j = 0; j < kTileX; ++j) total[i][part][j] += sum[i][part][j];
        }
        for (int i = 0; i < kTileY * kPack && i0 * kPack + i < channels_y; ++i) {
          float* const of_channel = out(i0 * kPack + i);
          for (int j = 0; j < kTileX && j0 + j < count_x; ++j)
            for (int part = 0; part < kPack; ++part) {
              const int channel = (j0 + j) / taps * kPack + part;
              if (channel >= channels_x) continue;
              float& at = of_channel[channel * taps + (j0 + j) % taps];
              const vf lanes = total[i / kPack][i % kPack ^ part][j];
              const double sum = kPack == 1 ? exact_sum(lanes) : exact_sum_of_half(lanes, part);
              at = (float)(sum + (first ? at : 0.0f));
            }
        }
      }
    }
  }
}

// Gradient of a 1x1 convolution's weight, row i of it to out(i); of operands.
template <class Operand = Fp32, class Out>
void matrix_gradient_rows(const Geometry& g, const Field& grad, int rows, const Field& in, int columns,
                          const Out& out) {
  correlate<Operand, kMatrixY<Operand>, kMatrixX<Operand>>(
      g, rows, grad.stride, [&](int i) { return grad.at(i, 0, 0); }, columns, 1, in.stride,
      [&](int j) { return in.at(j, 0, 0); }, out);
}

// out [rows, columns].
template <class Operand = Fp32>
void matrix_gradient(const Geometry& g, const Field& grad, int rows, const Field& in, int columns,
                     float* out) {
  matrix_gradient_rows<Operand>(g, grad, rows, in, columns, [=](int i) { return out + i * columns; });
}

// Gradient of a 3x3 convolution's weight, out [rows, columns, 3, 3]; of operands, `in` has a halo.
template <class Operand = Fp32>
void gradient_3x3(const Geometry& g, const Field& grad, int rows, const Field& in, int columns, float* out) {
  correlate<Operand, kMatrixY<Operand>, kMatrixX<Operand>>(
      g, rows, grad.stride, [&](int i) { return grad.at(i, 0, 0); }, columns, 9, in.stride,
      [&](int j) { return in.at(j / 9, j % 9 / 3 - 1, j % 3 - 1); },
      [&](int i) { return out + i * columns * 9; });
}

// out [channels] = sums over the pixels of a gradient, of operands.
template <class Operand = Fp32>
void bias_gradient(const Geometry& g, const Field& grad, int channels, float* out) {
  constexpr int kPack = Operand::kPack;
  for (int c = 0; c < channels; c += kPack) {
    vf total[kPack] = {};
    for (int r0 = 0; r0 < g.h; r0 += kSumRows) {
      const int end = r0 + kSumRows < g.h ? r0 + kSumRows : g.h;
      vf sum[2][kPack] = {};
      for (int r = r0; r < end; ++r)
        for (int x = 0; x < g.padded_w; x += VL) {
          vf values[kPack];
          Operand::split(load(grad.at(c / kPack, r, x)), values);
          for (int part = 0; part < kPack; ++part) sum[x / VL % 2][part] += values[part];
        }
      for (int part = 0; part < kPack; ++part) total[part] += sum[0][part] + sum[1][part];
    }
    for (int part = 0; part < kPack && c + part < channels; ++part)
      out[c + part] = (float)exact_sum(total[part]);
  }
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
