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
SM_INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
SM_INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }
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

// 2^p for p in [-120, 120]; relative error below 3e-7.
SM_INLINE vf exp2(vf p) {
#if defined(__AVX512F__)
  const vf f = _mm512_reduce_ps(p, 0x09);  // p - floor(p)
#elif defined(__AVX2__)
  const vf n = _mm256_floor_ps(p);
  const vf f = p - n;
#else
  vi whole = __builtin_convertvector(p, vi);           // towards zero
  whole += (__builtin_convertvector(whole, vf) > p);   // comparison gives -1: now towards -infinity
  const vf n = __builtin_convertvector(whole, vf);
  const vf f = p - n;
#endif
  // Minimax of 2^f on [0, 1).
  vf r = splat(1.8775767e-3f);
  r = r * f + 8.9893397e-3f;
  r = r * f + 5.5826318e-2f;
  r = r * f + 2.4015361e-1f;
  r = r * f + 6.9315308e-1f;
  r = r * f + 9.9999994e-1f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(r, p);
#else
  return r * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
#endif
}

// GELU(x), the erf form: max(x, 0) - |x| * 2^p(|x|) (DESIGN section 2); max abs error 9e-7.
SM_INLINE vf gelu(vf x) {
  const vf t = vmin(splat(10.0f), vabs(x));  // 2^p(10) is already 1e-26; NaN stays NaN
  vf p = splat(-0.00047329405f);
  p = p * t + 0.0070844615f;
  p = p * t - 0.05182717f;
  p = p * t - 0.45999264f;
  p = p * t - 1.1507878f;
  p = p * t - 1.0000376f;
  return vmax(vf{}, x) - t * exp2(p);
}

}  // namespace SM_ISA
}  // namespace seemore
