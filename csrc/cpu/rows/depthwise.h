// Depthwise convolutions of operand rows: 3x3, and stripes along the row and the column.
#pragma once

#include "cpu/rows/matrix.h"
#include "cpu/rows/operand.h"

namespace seemore {
namespace SM_ISA {

// N vectors of a row, and the same shifted by up to a vector either way.  AVX-512 puts shifted ones together
// from aligned loads: every unaligned one would cross a cache line.
template <int N>
struct Span {
#if defined(__AVX512F__)
  vf v[N + 2];

  SM_INLINE explicit Span(const float* p) {
    for (int i = 0; i < N + 2; ++i) v[i] = load(p + (i - 1) * VL);
  }
  template <int kShift>
  SM_INLINE vf shifted(int i) const {
    if constexpr (kShift == 0) return v[i + 1];
    const vf low = kShift > 0 ? v[i + 1] : v[i], high = kShift > 0 ? v[i + 2] : v[i + 1];
    return (vf)_mm512_alignr_epi32((__m512i)high, (__m512i)low, kShift & (VL - 1));
  }
#else
  const float* p;

  SM_INLINE explicit Span(const float* p_) : p(p_) {}
  template <int kShift>
  SM_INLINE vf shifted(int i) const {
    return load(p + i * VL + kShift);
  }
#endif
};

// acc += taps kShift .. kHalf of a horizontal stripe whose middle weight is w[0].
template <int kShift, int kHalf, int N>
SM_INLINE void add_taps(const Span<N>& span, const float* w, vf (&acc)[N]) {
  for (int v = 0; v < N; ++v) acc[v] += span.template shifted<kShift>(v) * w[kShift];
  if constexpr (kShift < kHalf) add_taps<kShift + 1, kHalf>(span, w, acc);
}

// The same for two channels that lie in pairs.
template <class Op, int kShift, int kHalf, int N>
SM_INLINE void add_taps(const Span<N>& span, const float* w0, const float* w1, vf (&acc)[2][N]) {
  for (int v = 0; v < N; ++v) {
    vf first, second;
    Op::split(span.template shifted<kShift>(v), first, second);
    acc[0][v] += first * w0[kShift];
    acc[1][v] += second * w1[kShift];
  }
  if constexpr (kShift < kHalf) add_taps<Op, kShift + 1, kHalf>(span, w0, w1, acc);
}

// acc += a horizontal stripe of 2 * kHalf + 1 taps over channels c and c + 1 of an operand row; w0 and w1:
// their middle weights.
template <class Op, int kHalf, int N>
SM_INLINE void add_stripe(const Row& in, int c, int x, const float* w0, const float* w1, vf (&acc)[2][N]) {
  if constexpr (Op::kPack == 1) {
    add_taps<-kHalf, kHalf>(Span<N>(in.at(c, x)), w0, acc[0]);
    add_taps<-kHalf, kHalf>(Span<N>(in.at(c + 1, x)), w1, acc[1]);
  } else {
    add_taps<Op, -kHalf, kHalf>(Span<N>(in.at(c / 2, x)), w0, w1, acc);
  }
}

template <int N>
SM_INLINE void set_bias(const Depthwise& d, int c, vf (&acc)[2][N]) {
  for (int i = 0; i < 2; ++i)
    for (int v = 0; v < N; ++v) acc[i][v] = splat(d.bias[c + i]);
}

// Depthwise convolutions compute channels c and c + 1 from operand rows.

// 3x3, over rows in[0..2].
template <class Op, int N>
SM_INLINE void depthwise_3x3(const Depthwise& d, const Row in[3], vf (&acc)[2][N], int c, int x) {
  const float* w = d.weight + c * 9 + 1;
  set_bias(d, c, acc);
  for (int i = 0; i < 3; ++i) add_stripe<Op, 1>(in[i], c, x, w + 3 * i, w + 9 + 3 * i, acc);
}

// Horizontal stripe of 2 * kHalf + 1 taps; kHalf = 0: of any number.
template <class Op, int kHalf>
SM_INLINE void stripe_row_of(const Depthwise& d, const Row& in, const Row& out, int channels, int x0,
                             int x1) {
  const int half = d.taps / 2;
  put_row<Op>(out, channels, x0, x1, [&]<int N>(vf(&acc)[2][N], int c, int x) SM_LAMBDA_INLINE {
    const float *w0 = d.weight + c * d.taps + half, *w1 = w0 + d.taps;
    set_bias(d, c, acc);
    if constexpr (kHalf > 0) {
      add_stripe<Op, kHalf>(in, c, x, w0, w1, acc);
    } else {
      for (int t = -half; t <= half; ++t)
        for (int v = 0; v < N; ++v) {
          vf first, second;
          Op::get(in, c, x + t + v * VL, first, second);
          acc[0][v] += first * w0[t];
          acc[1][v] += second * w1[t];
        }
    }
  });
}

// Horizontal stripe: out = depthwise 1xk of in.  The sizes that the network uses are unrolled.
template <class Op>
SM_INLINE void stripe_row(const Depthwise& d, const Row& in, const Row& out, int channels, int x0, int x1) {
  if (d.taps == 11) return stripe_row_of<Op, 5>(d, in, out, channels, x0, x1);
  if (d.taps == 3) return stripe_row_of<Op, 1>(d, in, out, channels, x0, x1);
  stripe_row_of<Op, 0>(d, in, out, channels, x0, x1);
}

// Vertical stripe, depthwise kx1 over rows in[0..k-1].
template <class Op, int N>
SM_INLINE void stripe_column(const Depthwise& d, const Row* in, vf (&acc)[2][N], int c, int x) {
  const float *w0 = d.weight + c * d.taps, *w1 = w0 + d.taps;
  set_bias(d, c, acc);
  for (int t = 0; t < d.taps; ++t)
    for (int v = 0; v < N; ++v) {
      vf first, second;
      Op::get(in[t], c, x + v * VL, first, second);
      acc[0][v] += first * w0[t];
      acc[1][v] += second * w1[t];
    }
}

// The same for two rows of output from in[0..k]: a tall stripe is bound by reading its rows from the L2
// cache.
template <class Op, int N>
SM_INLINE void stripe_column_pair(const Depthwise& d, const Row* in, vf (&upper)[2][N], vf (&lower)[2][N],
                                  int c, int x) {
  const int taps = d.taps;
  const float* w[2] = {d.weight + c * taps, d.weight + (c + 1) * taps};
  set_bias(d, c, upper);
  set_bias(d, c, lower);
  vf value[2];
  for (int v = 0; v < N; ++v) {
    Op::get(in[0], c, x + v * VL, value[0], value[1]);
    for (int i = 0; i < 2; ++i) upper[i][v] += value[i] * w[i][0];
  }
  for (int t = 1; t < taps; ++t)
    for (int v = 0; v < N; ++v) {
      Op::get(in[t], c, x + v * VL, value[0], value[1]);
      for (int i = 0; i < 2; ++i) {
        upper[i][v] += value[i] * w[i][t];
        lower[i][v] += value[i] * w[i][t - 1];
      }
    }
  for (int v = 0; v < N; ++v) {
    Op::get(in[taps], c, x + v * VL, value[0], value[1]);
    for (int i = 0; i < 2; ++i) lower[i][v] += value[i] * w[i][taps - 1];
  }
}

}  // namespace SM_ISA
}  // namespace seemore
