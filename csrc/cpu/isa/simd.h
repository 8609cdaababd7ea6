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

// The even, or the odd, lanes of a and b put together.
SM_INLINE vf every_other(vf a, vf b, int first) {
  vi index;
  for (int i = 0; i < VL; ++i) index[i] = 2 * i + first;
  return __builtin_shuffle(a, b, index);
}

SM_INLINE vf add_pairs(vf a, vf b) { return every_other(a, b, 0) + every_other(a, b, 1); }

}  // namespace SM_ISA
}  // namespace seemore
