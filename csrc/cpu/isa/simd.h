// One vector of floats as wide as the ISA this file is compiled for, and the few operations on it.
//
// Included only by files that CMake compiles once per ISA with -DSM_ISA=<name>; everything lives in
// seemore::SM_ISA and nothing here comes from the STL, so that the linker can never merge code of one
// ISA into another (docs/native-core.md).
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(SM_ISA)
#error "compile this file through CMake, which defines SM_ISA"
#endif

#if defined(__SSSE3__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define SM_INLINE inline __attribute__((always_inline))
#define SM_LAMBDA_INLINE __attribute__((always_inline))

// Before a loop over vectors in registers, which must vanish.  GCC wants the most rounds there may be.
#if defined(__clang__)
#define SM_UNROLL(most) _Pragma("clang loop unroll(full)")
#else
#define SM_PRAGMA(text) _Pragma(#text)
#define SM_UNROLL(most) SM_PRAGMA(GCC unroll most)
#endif

// Products of bf16 pairs, accumulated in fp32: struct Bf16 in cpu/rows/operand.h.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define SM_HAS_BF16
#endif

namespace seemore {
namespace SM_ISA {

#if defined(__AVX512F__)
constexpr int VL = 16;
#elif defined(__AVX2__)
constexpr int VL = 8;
#else
constexpr int VL = 4;
#endif

// Vectors that the registers hold.
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));

SM_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
SM_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
// What was loaded stays in a register; GCC may load it again for each use.
SM_INLINE vf load_once(const float* p) {
  vf v = load(p);
#if defined(__x86_64__)
  __asm__("" : "+x"(v));
#elif defined(__ARM_NEON)
  __asm__("" : "+w"(v));
#endif
  return v;
}
// The pointer, of which the compiler no longer knows what is there: once `after` is computed, that is loaded.
template <class T>
SM_INLINE const T* unknown(const T* p, vf after) {
#if defined(__x86_64__)
  __asm__("" : "+r"(p) : "x"(after));
#elif defined(__ARM_NEON)
  __asm__("" : "+r"(p) : "w"(after));
#endif
  return p;
}
SM_INLINE vf splat(float s) { return s - vf{}; }
SM_INLINE vi splat_bits(float s) {
  int32_t bits;
  memcpy(&bits, &s, sizeof bits);
  return bits - vi{};
}
// On x86 both return the second operand where either is NaN, on ARM NaN: put the value that must propagate
// last.
#if defined(__AVX512F__)
SM_INLINE vf vmax(vf a, vf b) { return _mm512_max_ps(a, b); }
SM_INLINE vf vmin(vf a, vf b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__)
SM_INLINE vf vmax(vf a, vf b) { return _mm256_max_ps(a, b); }
SM_INLINE vf vmin(vf a, vf b) { return _mm256_min_ps(a, b); }
#elif defined(__ARM_NEON)
SM_INLINE vf vmax(vf a, vf b) { return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
SM_INLINE vf vmin(vf a, vf b) { return (vf)vminq_f32((float32x4_t)a, (float32x4_t)b); }
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
#elif defined(__ARM_NEON)
  return 1.0f / (vf)vsqrtq_f32((float32x4_t)a);
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

// A sum of floats in double, a vector at a time.
#if defined(__AVX512F__)
struct ExactSum {
  __m512d low = {}, high = {};
  SM_INLINE void add(vf v) {
    low += _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    high += _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
  }
  SM_INLINE double total() const { return _mm512_reduce_add_pd(low + high); }
};
#elif defined(__AVX2__)
struct ExactSum {
  __m256d low = {}, high = {};
  SM_INLINE void add(vf v) {
    low += _mm256_cvtps_pd(_mm256_castps256_ps128(v));
    high += _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
  }
  SM_INLINE double total() const {
    const __m256d both = low + high;
    return (both[0] + both[2]) + (both[1] + both[3]);
  }
};
#else
struct ExactSum {
  double lanes[VL] = {};
  SM_INLINE void add(vf v) {
    for (int i = 0; i < VL; ++i) lanes[i] += v[i];
  }
  SM_INLINE double total() const {
    double sum = 0;
    for (int i = 0; i < VL; ++i) sum += lanes[i];
    return sum;
  }
};
#endif

// The sum of a vector's lanes, in double.
SM_INLINE double exact_sum(vf v) {
  ExactSum sum;
  sum.add(v);
  return sum.total();
}

// The sum of the lanes of one of a vector's two halves, in double.
SM_INLINE double exact_sum_of_half(vf v, int half) {
#if defined(__AVX512F__)
  const __m256 of_half = half ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v);
  return _mm512_reduce_add_pd(_mm512_cvtps_pd(of_half));
#else
  double sum = 0;
  for (int i = 0; i < VL / 2; ++i) sum += v[half * VL / 2 + i];
  return sum;
#endif
}

// A vector with the lanes outside [from, to) set to zero.
SM_INLINE vf keep_range(vf v, int from, int to) {
  vi lane;
  for (int i = 0; i < VL; ++i) lane[i] = i;
  return (vf)((vi)v & (lane >= from) & (lane < to));
}

// The even, and the odd, lanes of a and b put together, added.
SM_INLINE vf add_pairs(vf a, vf b) {
#if defined(__AVX512F__)
  const vf even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const vf odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif defined(__AVX2__)
  const vf even = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  const vf odd = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
  const vf even = __builtin_shufflevector(a, b, 0, 2, 4, 6);
  const vf odd = __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
  return even + odd;
}

// Lane i becomes v's lane index[i], which must be in 0 .. VL - 1.
SM_INLINE vf permute(vf v, vi index) {
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps((__m512i)index, v);
#elif defined(__AVX2__)
  return _mm256_permutevar8x32_ps(v, (__m256i)index);
#elif defined(__SSSE3__)
  const vi bytes = index * 0x04040404 + 0x03020100;
  return (vf)_mm_shuffle_epi8((__m128i)v, (__m128i)bytes);
#elif defined(__ARM_NEON)
  const vi bytes = index * 0x04040404 + 0x03020100;
  return (vf)vqtbl1q_u8((uint8x16_t)v, (uint8x16_t)bytes);
#else
  vf picked;
  for (int i = 0; i < VL; ++i) picked[i] = v[index[i]];
  return picked;
#endif
}

}  // namespace SM_ISA
}  // namespace seemore
