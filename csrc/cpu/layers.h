// Everything between the matrix products, a row at a time: LayerNorm, depthwise convolutions, masking,
// aggregation, bilinear resizing.  Rows as in gemm.h.
#pragma once

#include "conv.h"

namespace seemore {
namespace SM_ISA {

constexpr float kNormEps = 1e-6f;

// Zeroes columns [from, to) of a row's channels: PyTorch's padding sees 0 there, not what a kernel that
// ran over the image's edge left.
SM_INLINE void zero_columns(const Row& row, int channels, int from, int to) {
  if (from >= to) return;
  for (int c = 0; c < channels; ++c) memset(row.at(c, from), 0, sizeof(float) * (to - from));
}

// (x - mean) / sqrt(variance + eps) over the channels of each pixel, two passes; affine where given.
template <class Op>
SM_INLINE void layer_norm(const Row& in, const Row& out, int dim, int padded_dim, const float* weight,
                          const float* bias, int x0, int x1) {
  each_column(x0, x1, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
    vf mean[N] = {}, scale[N] = {};
    for (int c = 0; c < dim; ++c)
      for (int v = 0; v < N; ++v) mean[v] += load(in.at(c, x + v * VL));
    for (int v = 0; v < N; ++v) mean[v] *= 1.0f / dim;
    for (int c = 0; c < dim; ++c)
      for (int v = 0; v < N; ++v) {
        const vf d = load(in.at(c, x + v * VL)) - mean[v];
        scale[v] += d * d;
      }
    for (int v = 0; v < N; ++v) scale[v] = rsqrt(scale[v] * (1.0f / dim) + kNormEps);
    auto normal = [&](int c, int v) SM_LAMBDA_INLINE {
      if (c >= dim) return vf{};
      const vf n = (load(in.at(c, x + v * VL)) - mean[v]) * scale[v];
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

// The even, or the odd, lanes of a and b put together.
SM_INLINE vf every_other(vf a, vf b, int first) {
  vi index;
  for (int i = 0; i < VL; ++i) index[i] = 2 * i + first;
  return __builtin_shuffle(a, b, index);
}

SM_INLINE vf add_pairs(vf a, vf b) { return every_other(a, b, 0) + every_other(a, b, 1); }

// Depthwise 4x4 with stride 4 and GELU: columns [x0, x1) of the output from four operand rows.  Works on
// whole vectors: `out` is written for up to VL columns too many, and `in` read.
template <class Op>
SM_INLINE void aggregate_row(const Depthwise& d, const Row in[4], const Row& out, int channels, int x0,
                             int x1) {
  for (int c = 0; c < channels; c += 2) {
    vf weight[2][4];
    for (int n = 0; n < 2; ++n)
      for (int i = 0; i < 4; ++i)
        for (int lane = 0; lane < VL; ++lane) weight[n][i][lane] = d.weight[(c + n) * 16 + 4 * i + lane % 4];
    for (int x = x0; x < x1; x += VL) {
      vf products[2][4];
      for (int v = 0; v < 4; ++v) {
        products[0][v] = products[1][v] = vf{};
        if (x + v * VL / 4 >= x1) continue;  // the row may end here, and with it the workspace
        for (int i = 0; i < 4; ++i) {
          vf value[2];
          Op::get(in[i], c, 4 * x + v * VL, value[0], value[1]);
          for (int n = 0; n < 2; ++n) products[n][v] += value[n] * weight[n][i];
        }
      }
      for (int n = 0; n < 2; ++n) {
        const vf(&p)[4] = products[n];
        const vf sum = add_pairs(add_pairs(p[0], p[1]), add_pairs(p[2], p[3]));
        store(out.at(c + n, x), gelu(sum + d.bias[c + n]));
      }
    }
  }
}

// Where bilinear resizing (align_corners=False) reads for output position i: low and low + 1, the second
// with this weight.
struct Tap2 {
  int low;
  float weight;
};

SM_INLINE Tap2 bilinear_tap(int i, int size_in, int size_out) {
  double source = (i + 0.5) * size_in / size_out - 0.5;
  if (source < 0) source = 0;
  int low = (int)source;
  if (low > size_in - 1) low = size_in - 1;
  return {low, low + 1 < size_in ? (float)(source - low) : 0.0f};
}

// Elements p[index[i]] for ascending indices that all lie less than VL past the first, as those of a map that
// is resized at least fourfold do.  Gathers are four times as slow.
SM_INLINE vf pick(const float* p, vi index) {
  const vf near = load(p + index[0]);
  index -= index[0];
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps((__m512i)index, near);
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(near, (__m256i)index);
#else
  return __builtin_shuffle(near, index);
#endif
}

SM_INLINE float horizontal_sum(vf v) {
  float lanes[VL];
  memcpy(lanes, &v, sizeof v);
  for (int width = VL / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// A vector with the lanes outside [from, to) set to zero.
SM_INLINE vf keep_range(vf v, int from, int to) {
  vi lane;
  for (int i = 0; i < VL; ++i) lane[i] = i;
  return (vf)((vi)v & (lane >= from) & (lane < to));
}

}  // namespace SM_ISA
}  // namespace seemore
