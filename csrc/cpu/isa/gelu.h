// GELU of a vector, the erf form, in two classes of accuracy, and the derivative of the more exact one.
#pragma once

#include "cpu/isa/simd.h"

namespace seemore {
namespace SM_ISA {

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

// 2^p for p in [-120, 120]; relative error below 3e-7.
SM_INLINE vf exp2(vf p) {
#if defined(__AVX2__)
  const vf n = _mm256_floor_ps(p);
#else
  vi whole = __builtin_convertvector(p, vi);          // towards zero
  whole += (__builtin_convertvector(whole, vf) > p);  // a true comparison is -1: now towards -infinity
  const vf n = __builtin_convertvector(whole, vf);
#endif
  const vf f = p - n;
  // Minimax of 2^f on [0, 1).
  vf r = splat(1.8775767e-3f);
  r = r * f + 8.9893397e-3f;
  r = r * f + 5.5826318e-2f;
  r = r * f + 2.4015361e-1f;
  r = r * f + 6.9315308e-1f;
  r = r * f + 9.9999994e-1f;
  return r * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

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

// 2^p for p in [-120, 120].
SM_INLINE vf power_of_two(vf p) {
#if defined(__AVX512F__)
  const vf n = _mm512_roundscale_ps(p, 0x09);  // floor
#elif defined(__AVX2__)
  const vf n = _mm256_floor_ps(p);
#else
  vi whole = __builtin_convertvector(p, vi);
  whole += (__builtin_convertvector(whole, vf) > p);
  const vf n = __builtin_convertvector(whole, vf);
#endif
  const vf f = p - n;
  vf r = splat(0.000217022447f);
  r = r * f + 0.00124396919f;
  r = r * f + 0.00967884064f;
  r = r * f + 0.0554833412f;
  r = r * f + 0.24022983f;
  r = r * f + 0.693147004f;
  r = r * f + 1.0f;
  return r * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}

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
  return power_of_two(p);
}

SM_INLINE vf exact_gelu(vf x) {
  const vf t = vmin(splat(8.0f), vabs(x));
  return vmax(vf{}, x) - t * tail_probability(t);
}

// Its derivative, Phi(x) + x phi(x).
SM_INLINE vf gelu_slope(vf x) {
  const vf t = vmin(splat(8.0f), vabs(x));
  const vf density = 0.39894228f * power_of_two(t * t * -0.72134752f);
  const vf low = tail_probability(t) - t * density;  // the derivative at -t
  return x > 0.0f ? 1.0f - low : low;
}

}  // namespace SM_ISA
}  // namespace seemore
