// 3x3 convolutions by Winograd's minimal filtering down the columns.
//
// F(m, 3) makes m output rows from m + 2 products of 1x3 convolutions, instead of 3 m: fp32 takes F(4, 3),
// half the arithmetic of nine taps; bf16 takes F(2, 3), two thirds of it, for there the rounding of the
// transformed operands counts.  Groups of m rows start at multiples of m rows of the image, whatever the
// bands: same bits for any number of threads.  The weights are transformed in engine/pack.cc.
#pragma once

#include "cpu/rows/gemm.h"

namespace seemore {
namespace SM_ISA {

template <class Op>
struct Winograd;

// Points 0, +-1/sqrt(2), +-sqrt(2) and infinity: of the usual choices the one with the smallest error.
template <>
struct Winograd<Fp32> {
  static constexpr int kRows = 4, kProducts = 6;
  static constexpr float kA = 0.70710678f, kB = 1.41421356f;

  SM_INLINE static void transform(const vf (&d)[kRows + 2], vf (&out)[kProducts]) {
    const vf even_a = d[4] - 2.0f * d[2], odd_a = kA * (d[3] - 2.0f * d[1]);
    const vf even_b = d[4] - 0.5f * d[2], odd_b = kB * (d[3] - 0.5f * d[1]);
    out[0] = d[0] + (d[4] - 2.5f * d[2]);
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = d[1] + (d[5] - 2.5f * d[3]);
  }

  SM_INLINE static void combine(const vf (&p)[kProducts], vf (&y)[kRows]) {
    const vf sum_a = p[1] + p[2], difference_a = kA * (p[1] - p[2]);
    const vf sum_b = p[3] + p[4], difference_b = kB * (p[3] - p[4]);
    y[0] = p[0] + (sum_a + sum_b);
    y[1] = difference_a + difference_b;
    y[2] = 0.5f * sum_a + 2.0f * sum_b;
    y[3] = p[5] + (0.5f * difference_a + 2.0f * difference_b);
  }
};

#if defined(SM_HAS_BF16)
template <>
struct Winograd<Bf16> {
  static constexpr int kRows = 2, kProducts = 4;

  SM_INLINE static void transform(const vf (&d)[kRows + 2], vf (&out)[kProducts]) {
    out[0] = d[0] - d[2];
    out[1] = d[1] + d[2];
    out[2] = d[2] - d[1];
    out[3] = d[1] - d[3];
  }

  SM_INLINE static void combine(const vf (&p)[kProducts], vf (&y)[kRows]) {
    y[0] = p[0] + (p[1] + p[2]);
    y[1] = (p[1] - p[2]) - p[3];
  }
};
#endif

// A group of rows r .. r + kRows - 1 of a 3x3 convolution from input rows r - 1 .. r + kRows (fp32).
template <class Op>
struct RowConv {
  using W = Winograd<Op>;
  static constexpr int kRows = W::kRows, kInputs = W::kRows + 2, kProducts = W::kProducts;
  static constexpr int kChunk = 128;                        // columns transformed at once
  static constexpr int kWidth = kChunk + 2 * kColumnAlign;  // of a scratch row

  // Columns [x0, x1), from columns [x0 - 1, x1 + 1).  `scratch`: kProducts operand rows of kWidth columns.
  // `residual` is read by kResidual only.  ahead(from, to) is called before the products of these columns:
  // the place to ask for lines that are needed next.
  template <Epilogue E, class F>
  static void run(const Matrix& a, const Row in[kInputs], const Row scratch[kProducts], int channels, int x0,
                  int x1, const Row out[kRows], const Row residual[kRows], F ahead) {
    for (int from = x0; from < x1; from += kChunk) {
      const int to = from + kChunk < x1 ? from + kChunk : x1;
      Row transformed[kProducts];
      for (int j = 0; j < kProducts; ++j) transformed[j] = scratch[j].window(from - kColumnAlign);
      transform(in, transformed, channels, from - VL, to + VL);
      for (int x = from; x < to;) {
        const bool pair = x + kTileVectors * VL <= to;
        ahead(x, x + (pair ? kTileVectors * VL : VL));
        if (pair)
          columns<kTileVectors, E>(a, transformed, x, out, residual);
        else
          columns<1, E>(a, transformed, x, out, residual);
        x += pair ? kTileVectors * VL : VL;
      }
    }
  }

 private:
  static void transform(const Row in[kInputs], const Row out[kProducts], int channels, int x0, int x1) {
    for (int c = 0; c < channels; c += 2)
      for (int x = x0; x < x1; x += VL) {
        vf result[2][kProducts];
        SM_UNROLL(2)
        for (int i = 0; i < 2; ++i) {
          vf d[kInputs];
          for (int r = 0; r < kInputs; ++r) d[r] = load(in[r].at(c + i, x));
          W::transform(d, result[i]);
        }
        for (int j = 0; j < kProducts; ++j) Op::put(out[j], c, x, result[0][j], result[1][j]);
      }
  }

  template <int NV, Epilogue E>
  static void columns(const Matrix& a, const Row in[kProducts], int x, const Row out[kRows],
                      const Row residual[kRows]) {
    static const float zeros[kBlock] = {};
    alignas(64) float products[kProducts][kBlock][NV * VL];
    for (int m = 0; m < a.m; m += kBlock) {
      const int rows = a.m - m < kBlock ? a.m - m : kBlock;
      const float* w = a.weight + (size_t)m * a.taps * a.k;
      for (int j = 0; j < kProducts; ++j) {
        const Taps taps = {{in[j].p + x - 1, in[j].p + x, in[j].p + x + 1}, in[j].pitch};
        block<Op, NV, Epilogue::kStore, 0, kTapsApart<Op>>(w + (size_t)j * 3 * a.k * rows, zeros, taps, 3,
                                                           a.k, rows, 0, {&products[j][0][0], NV * VL}, 0,
                                                           Row());
      }
      for (int i = 0; i < rows; i += 2)
        for (int v = 0; v < NV * VL; v += VL) {
          vf y[2][kRows];
          SM_UNROLL(2)
          for (int n = 0; n < 2; ++n) {
            vf p[kProducts];
            for (int j = 0; j < kProducts; ++j) p[j] = load(&products[j][i + n][v]);
            W::combine(p, y[n]);
            for (int r = 0; r < kRows; ++r) y[n][r] += a.bias[m + i + n];
          }
          for (int r = 0; r < kRows; ++r) finish<E>(y[0][r], y[1][r], out[r], residual[r], m + i, x + v);
        }
    }
  }

  // Stores channels c and c + 1.
  template <Epilogue E>
  SM_INLINE static void finish(vf first, vf second, const Row& out, const Row& residual, int c, int x) {
    if constexpr (E == Epilogue::kGeluOperand) {
      Op::put(out, c, x, gelu(first), gelu(second));
    } else {
      static_assert(E == Epilogue::kStore || E == Epilogue::kResidual);
      if (E == Epilogue::kResidual) {
        first += load(residual.at(c, x));
        second += load(residual.at(c + 1, x));
      }
      store(out.at(c, x), first);
      store(out.at(c + 1, x), second);
    }
  }
};

}  // namespace SM_ISA
}  // namespace seemore
