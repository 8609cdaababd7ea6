// One vector of floats as wide as the ISA this file is compiled for, and the few operations on it.
//
// Included only by files that CMake compiles once per ISA with -DSM_ISA=<name>; everything lives in
// seemore::SM_ISA and nothing here comes from the STL, so that the linker can never merge code of one
// ISA into another (docs/cpu-engine.md).
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(SM_ISA)
#error "compile this file through CMake, which defines SM_ISA"
#endif

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define SM_INLINE inline __attribute__((always_inline))
#define SM_LAMBDA_INLINE __attribute__((always_inline))

namespace seemore {
namespace SM_ISA {

#if defined(__AVX512F__)
constexpr int VL = 16;
#elif defined(__AVX2__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

SM_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
SM_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
SM_INLINE vf splat(float s) { return s - vf{}; }
// Both return the second operand where either is NaN: put the value that must propagate last.
#if defined(__AVX512F__)
SM_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
SM_INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
SM_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
SM_INLINE vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
#else
SM_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
SM_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
#endif
SM_INLINE vf vabs(vf a) { return (vf)((vi)a & 0x7fffffff); }

// 1 / sqrt(a), correctly rounded division and root: LayerNorm feeds everything, and runs once a pixel.
SM_INLINE vf rsqrt(vf a) {
#if defined(__AVX512F__)
  return 1.0f / _mm512_sqrt_ps(a);
#elif defined(__AVX2__)
  return 1.0f / _mm256_sqrt_ps(a);
#else
  vf r;
  for (int i = 0; i < VL; ++i) r[i] = 1.0f / __builtin_sqrtf(a[i]);
  return r;
#endif
}

// GELU(x), the erf form, as max(x, 0) - t * Phi(-t) at t = |x|.  Infinite x gives inf and about 0; NaN stays.
#if defined(__AVX512F__)

#include "gelu_table.h"

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

}  // namespace SM_ISA
}  // namespace seemore
