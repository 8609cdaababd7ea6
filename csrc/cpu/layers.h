// Everything between the matrix products, a row at a time: LayerNorm, depthwise convolutions, masking,
// aggregation, bilinear resizing.  Rows as in gemm.h.
#pragma once

#include "gemm.h"

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
  for (int x = x0; x < x1; x += VL) {
    vf sum = {}, squares = {};
    for (int c = 0; c < dim; ++c) sum += load(in.at(c, x));
    const vf mean = sum * (1.0f / dim);
    for (int c = 0; c < dim; ++c) {
      const vf d = load(in.at(c, x)) - mean;
      squares += d * d;
    }
    const vf scale = rsqrt(squares * (1.0f / dim) + kNormEps);
    const vf shift = mean * scale;
    auto normal = [&](int c) SM_LAMBDA_INLINE {
      if (c >= dim) return vf{};
      const vf n = load(in.at(c, x)) * scale - shift;
      return weight ? n * weight[c] + bias[c] : n;
    };
    for (int c = 0; c < padded_dim; c += 2) Op::put(out, c, x, normal(c), normal(c + 1));
  }
}

// One output vector of a depthwise 3x3 convolution over rows in[0..2].
SM_INLINE vf depthwise_3x3(const Depthwise& d, const Row in[3], int c, int x) {
  const float* w = d.weight + c * 9;
  vf acc = splat(d.bias[c]);
  for (int t = 0; t < 9; ++t) acc += load(in[t / 3].at(c, x + t % 3 - 1)) * w[t];
  return acc;
}

// Horizontal stripe: out = depthwise 1xk of in.
SM_INLINE void stripe_row(const Depthwise& d, const Row& in, const Row& out, int channels, int x0, int x1) {
  const int half = d.taps / 2;
  for (int c = 0; c < channels; ++c) {
    const float* w = d.weight + c * d.taps;
    int x = x0;
    for (; x + 2 * VL <= x1; x += 2 * VL) {
      vf a = splat(d.bias[c]), b = a;
      for (int t = 0; t < d.taps; ++t) {
        a += load(in.at(c, x + t - half)) * w[t];
        b += load(in.at(c, x + VL + t - half)) * w[t];
      }
      store(out.at(c, x), a);
      store(out.at(c, x + VL), b);
    }
    for (; x < x1; x += VL) {
      vf a = splat(d.bias[c]);
      for (int t = 0; t < d.taps; ++t) a += load(in.at(c, x + t - half)) * w[t];
      store(out.at(c, x), a);
    }
  }
}

// One output vector of the vertical stripe, depthwise kx1 over rows in[0..k-1].
SM_INLINE vf stripe_column(const Depthwise& d, const Row* in, int c, int x) {
  const float* w = d.weight + c * d.taps;
  vf acc = splat(d.bias[c]);
  for (int t = 0; t < d.taps; ++t) acc += load(in[t].at(c, x)) * w[t];
  return acc;
}

// Depthwise 4x4 with stride 4 and GELU: columns [x0, x1) of the output from four rows of the input.
// `out` needs room for whole vectors past x1.
SM_INLINE void aggregate_row(const Depthwise& d, const Row in[4], const Row& out, int channels, int x0, int x1) {
  for (int c = 0; c < channels; ++c) {
    const float* w = d.weight + c * 16;
    float* o = out.at(c, 0);
    for (int x = x0; x < x1; ++x) {
      float acc = d.bias[c];
      for (int i = 0; i < 4; ++i) {
        const float* p = in[i].at(c, 4 * x);
        acc += (p[0] * w[4 * i] + p[1] * w[4 * i + 1]) + (p[2] * w[4 * i + 2] + p[3] * w[4 * i + 3]);
      }
      o[x] = acc;
    }
    for (int x = x0; x < x1; x += VL) store(o + x, gelu(load(o + x)));
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

// Elements p[index[i]] for non-negative indices.
SM_INLINE vf gather(const float* p, vi index) {
#if defined(__AVX512F__)
  return _mm512_i32gather_ps((__m512i)index, p, 4);
#elif defined(__AVX2__)
  return _mm256_i32gather_ps(p, (__m256i)index, 4);
#else
  vf r;
  for (int i = 0; i < VL; ++i) r[i] = p[index[i]];
  return r;
#endif
}

SM_INLINE float horizontal_sum(vf v) {
  float lanes[VL];
  memcpy(lanes, &v, sizeof v);
  for (int width = VL / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

// A vector with the lanes from `count` on set to zero.
SM_INLINE vf keep_first(vf v, int count) {
  vi lane;
  for (int i = 0; i < VL; ++i) lane[i] = i;
  return (vf)((vi)v & (lane < count));
}

}  // namespace SM_ISA
}  // namespace seemore
