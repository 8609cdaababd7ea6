// GELU of a vector, the erf form, in two classes of accuracy, and the derivative of the more exact one.
#pragma once

#include "cpu/isa/simd.h"

namespace seemore {
namespace SM_ISA {

// A coefficient of a polynomial, in every lane.
struct Coefficient {
  float lanes[VL] = {};
  constexpr Coefficient(float value) {
    for (float& lane : lanes) lane = value;
  }
};

// c[0] t^(N - 1) + ... + c[N - 1].
template <int N>
SM_INLINE vf polynomial(const Coefficient (&c)[N], vf t) {
#if defined(__ARM_NEON) || (defined(__clang__) && defined(__AVX2__) && !defined(__AVX512F__))
  // In pairs, by t^2: half as long a chain, of which the core's window holds more. Addends come from memory.
  // On ARM a multiply-add overwrites its addend: a constant costs a move out of a register, on the pipes that
  // are busy with multiply-adds, but a load on others. AVX2's 16 registers do not hold the constants, for
  // which Clang would spill what they are needed for (GCC does not).
  const Coefficient* at = unknown(c, t);
  const vf square = t * t;
  vf p = N % 2 ? splat(c[0].lanes[0]) : t * c[0].lanes[0] + load(at[1].lanes);
  SM_UNROLL(16)
  for (int i = 2 - N % 2; i < N; i += 2) p = p * square + (t * c[i].lanes[0] + load(at[i + 1].lanes));
#else
  vf p = splat(c[0].lanes[0]);
  SM_UNROLL(16) for (int i = 1; i < N; ++i) p = p * t + c[i].lanes[0];
#endif
  return p;
}

// 2^p for p in [-120, 120]; relative error below 2e-7.
SM_INLINE vf exp2(vf p) {
  // Minimax of 2^f on [-1/2, 1/2].
  static constexpr Coefficient kPower[] = {1.32647271e-3f, 9.67151264e-3f, 5.55073374e-2f,
                                           2.40222421e-1f, 6.93146978e-1f, 1.0f};
  constexpr float kShift =
      12582912.0f;  // 1.5 * 2^23: the low bits of p + kShift hold p rounded to a whole number
  const vf shifted = p + kShift;
  const vf f = p - (shifted - kShift);
  const vf r = polynomial(kPower, f);
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

// q(t) of degree 8, with t q(t)^8 = t Phi(-t) as nearly as can be up to 6.2, where that is 2e-9: fewer
// operations than 2^p(t) takes, in a shorter chain.  Max abs error 2.5e-7, and of small x 2e-7 of the result,
// for q(0)^8 is 1/2: both are rounding's.
static constexpr Coefficient kGeluRoot[] = {-2.9046038e-07f, 7.3979249e-06f, -5.9758932e-05f,
                                            3.2698532e-05f,  0.0015072472f,  -0.00067490537f,
                                            -0.03192646f,    -0.091457829f,  0.91700405f};
constexpr float kGeluEnd = 6.2f;

SM_INLINE vf gelu(vf x) {
  const vf t = vmin(splat(kGeluEnd), vabs(x));
  vf q = polynomial(kGeluRoot, t);
  q *= q;
  q *= q;
  q *= q;
  return vmax(vf{}, x) - t * q;
}

#endif

// Phi(-t) = 2^p(t) for t in [0, 8], within 1e-7; beyond that it is below 1e-15.  More exact than simd.h's:
// errors that depend on x alone add up in the gradients of weights, most of all in the router's.
SM_INLINE vf tail_probability(vf t) {
  static constexpr Coefficient kTail[] = {-2.77225286e-06f, 3.86228312e-05f, -0.000182556018f,
                                          -0.000145852973f, 0.00707545271f,  -0.0525050163f,
                                          -0.459204912f,    -1.15110576f,    -1.0f};
  return exp2(polynomial(kTail, t));
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
