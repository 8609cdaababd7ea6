// GELU of a vector, the erf form, in two classes of accuracy, and the derivative of the more exact one.
#pragma once

#include "cpu/isa/simd.h"

namespace seemore {
namespace SM_ISA {

// 2^p for p in [-120, 120]; relative error below 2e-7.
SM_INLINE vf exp2(vf p) {
  constexpr float kShift =
      12582912.0f;  // 1.5 * 2^23: the low bits of p + kShift hold p rounded to a whole number
  const vf shifted = p + kShift;
  const vf f = p - (shifted - kShift);
  // Minimax of 2^f on [-1/2, 1/2].
  vf r = splat(1.32647271e-3f);
  r = r * f + 9.67151264e-3f;
  r = r * f + 5.55073374e-2f;
  r = r * f + 2.40222421e-1f;
  r = r * f + 6.93146978e-1f;
  r = r * f + 1.0f;
  return (vf)((vi)r + ((vi)shifted << 23));
}

// GELU(x), the erf form, as max(x, 0) - t * Phi(-t) at t = |x|.  Infinite x gives inf and about 0; NaN stays.
#if defined(__AVX512F__)

#include "cpu/isa/gelu_table.h"

// Eight permutes' worth of table beat 2^p(t): 3.8 against 9.9 cycles a vector; max abs error 6e-8.
SM_INLINE vf gelu(vf x) {
  const vf t = _mm512_range_ps(x, splat(7.75f), 0x0a);  // min(|x|, 7.75)
  const __m512i segment = (__m512i)(t + 3145728.0f);    // 1.5 * 2^21: the low bits hold round(4 t)
  const vf u = _mm512_reduce_ps(t, 0x28);               // t - round(4 t) / 4
  auto coefficient = [&](int power) SM_LAMBDA_INLINE {
    return (vf)_mm512_permutex2var_ps(load(kGeluTail[power]), segment, load(kGeluTail[power] + 16));
  };
  vf r = coefficient(4);
  r = r * u + coefficient(3);
  r = r * u + coefficient(2);
  r = r * u + coefficient(1);
  r = r * u + coefficient(0);
  return vmax(vf{}, x) - r;
}

#else

// t * Phi(-t) = t * 2^p(t), p of degree 5; max abs error 7e-7.
SM_INLINE vf gelu(vf x) {
  const vf t = vmin(splat(10.0f), vabs(x));  // 2^p(10) is already 1e-26
  vf p = splat(-0.00047329405f);
  p = p * t + 0.0070844615f;
  p = p * t - 0.05182717f;
  p = p * t - 0.45999264f;
  p = p * t - 1.1507878f;
  p = p * t - 1.0000376f;
  return vmax(vf{}, x) - t * exp2(p);
}

#endif

// Phi(-t) = 2^p(t) for t in [0, 8], within 1e-7; beyond that it is below 1e-15.  More exact than simd.h's:
// errors that depend on x alone add up in the gradients of weights, most of all in the router's.
SM_INLINE vf tail_probability(vf t) {
  vf p = splat(-2.77225286e-06f);
  p = p * t + 3.86228312e-05f;
  p = p * t - 0.000182556018f;
  p = p * t - 0.000145852973f;
  p = p * t + 0.00707545271f;
  p = p * t - 0.0525050163f;
  p = p * t - 0.459204912f;
  p = p * t - 1.15110576f;
  p = p * t - 1.0f;
  return exp2(p);
}

SM_INLINE vf exact_gelu(vf x) {
#if defined(__AVX512F__)
  return gelu(x);  // its table is as exact
#else
  const vf t = vmin(splat(8.0f), vabs(x));
  return vmax(vf{}, x) - t * tail_probability(t);
#endif
}

// exact_gelu's derivative, Phi(x) + x phi(x), and by the way its value.
struct GeluAt {
  vf value, slope;

  SM_INLINE explicit GeluAt(vf x) {
    const vf t = vmin(splat(8.0f), vabs(x));
    const vf tail = tail_probability(t);
    const vf density = 0.39894228f * exp2(t * t * -0.72134752f);
    const vf low = tail - t * density;  // the derivative at -t
    slope = x > 0.0f ? 1.0f - low : low;
#if defined(__AVX512F__)
    value = exact_gelu(x);
#else
    value = vmax(vf{}, x) - t * tail;
#endif
  }
};

}  // namespace SM_ISA
}  // namespace seemore
