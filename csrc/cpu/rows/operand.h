// What matrix products multiply with: rows in fp32, or pairs of channels in bf16.  A unit is what lies side
// by side: kPack channels.
#pragma once

#include "cpu/isa/simd.h"
#include "cpu/rows/matrix.h"
#include "cpu/rows/row.h"

namespace seemore {
namespace SM_ISA {

// Matrix operands as fp32: one channel a unit.
struct Fp32 {
  static constexpr int kPack = 1;
  SM_INLINE static vf multiply_add(vf acc, vf x, float w) { return acc + x * w; }
  SM_INLINE static vf multiply_add(vf acc, vf x, vf y) { return acc + x * y; }
  // A weight's unit.
  SM_INLINE static float unit(float first, float) { return first; }
  // Stores channels c and c + 1 of an operand row.
  SM_INLINE static void put(const Row& row, int c, int x, vf first, vf second) {
    store(row.at(c, x), first);
    store(row.at(c + 1, x), second);
  }
  // Loads channels c and c + 1 of one.
  SM_INLINE static void get(const Row& row, int c, int x, vf& first, vf& second) {
    first = load(row.at(c, x));
    second = load(row.at(c + 1, x));
  }
  // The channels of one vector of units.
  SM_INLINE static void split(vf units, vf (&channels)[1]) { channels[0] = units; }
  // What is multiplied to be summed over pixels, of a vector of units: a channel in each 1 / kPack of the
  // lanes; part p of the other side has channel c ^ p where this one has c.
  SM_INLINE static vf pixels(const float* units) { return load_once(units); }
  SM_INLINE static void other_pixels(const float* units, vf (&parts)[1]) { parts[0] = load_once(units); }
};

#if defined(SM_HAS_BF16)
// Matrix operands as pairs of bf16 channels, side by side in 32 bits: what vdpbf16ps and bfdot multiply.
struct Bf16 {
  static constexpr int kPack = 2;
#if defined(__ARM_NEON)
  SM_INLINE static vf multiply_add(vf acc, vf x, vf y) {
    return (vf)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)x, (bfloat16x8_t)y);
  }
  SM_INLINE static vf multiply_add(vf acc, vf x, float w) { return multiply_add(acc, x, splat(w)); }
  SM_INLINE static void put(const Row& row, int c, int x, vf first, vf second) {
    const uint16x4_t low = (uint16x4_t)vcvt_bf16_f32((float32x4_t)first);
    const uint16x4_t high = (uint16x4_t)vcvt_bf16_f32((float32x4_t)second);
    store(row.at(c / 2, x), (vf)vcombine_u16(vzip1_u16(low, high), vzip2_u16(low, high)));
  }
  // Lanes from the first of channel `first` on, then of the other one.
  SM_INLINE static vf pixels(const float* units, int first) {
    const uint8x16_t even = {0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15};
    return (vf)vqtbl1q_u8((uint8x16_t)load(units), first ? vextq_u8(even, even, 8) : even);
  }
#else
  SM_INLINE static vf multiply_add(vf acc, vf x, vf y) {
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)y);
  }
  SM_INLINE static vf multiply_add(vf acc, vf x, float w) {
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)splat_bits(w));
  }
  SM_INLINE static void put(const Row& row, int c, int x, vf first, vf second) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    const __m512i low =
        _mm512_set_epi32(0x1f000f, 0x1e000e, 0x1d000d, 0x1c000c, 0x1b000b, 0x1a000a, 0x190009, 0x180008,
                         0x170007, 0x160006, 0x150005, 0x140004, 0x130003, 0x120002, 0x110001, 0x100000);
    store(row.at(c / 2, x), (vf)_mm512_permutexvar_epi16(low, both));
  }
  // Lanes from the first of channel `first` on, then of the other one.
  SM_INLINE static vf pixels(const float* units, int first) {
    const __m512i even =
        _mm512_set_epi32(0x1f001d, 0x1b0019, 0x170015, 0x130011, 0x0f000d, 0x0b0009, 0x070005, 0x030001,
                         0x1e001c, 0x1a0018, 0x160014, 0x120010, 0x0e000c, 0x0a0008, 0x060004, 0x020000);
    const __m512i order = first ? _mm512_shuffle_i64x2(even, even, 0x4e) : even;
    return (vf)_mm512_permutexvar_epi16(order, (__m512i)load(units));
  }
#endif
  SM_INLINE static vf pixels(const float* units) { return pixels(units, 0); }
  SM_INLINE static void other_pixels(const float* units, vf (&parts)[2]) {
    parts[0] = pixels(units, 0);
    parts[1] = pixels(units, 1);
  }
  SM_INLINE static float unit(float first, float second) {
    const uint32_t bits = to_bf16(first) | to_bf16(second) << 16;
    float both;
    memcpy(&both, &bits, sizeof both);
    return both;
  }
  SM_INLINE static void get(const Row& row, int c, int x, vf& first, vf& second) {
    split(load(row.at(c / 2, x)), first, second);
  }
  SM_INLINE static void split(vf pairs, vf& first, vf& second) {
    first = (vf)((vi)pairs << 16);
    second = (vf)((vi)pairs & (int32_t)0xffff0000);
  }
  SM_INLINE static void split(vf units, vf (&channels)[2]) { split(units, channels[0], channels[1]); }
};
#endif

// Fills channels [0, channels) of an operand row; f(vf (&out)[2][n], channel, x) computes n vectors of two
// channels.
template <class Op, class F>
SM_INLINE void put_row(const Row& row, int channels, int x0, int x1, F f) {
  for (int c = 0; c < channels; c += 2)
    each_column(x0, x1, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
      vf values[2][N];
      f(values, c, x);
      for (int v = 0; v < N; ++v) Op::put(row, c, x + v * VL, values[0][v], values[1][v]);
    });
}

// Channels c and c + 1 times those of an operand row.
template <class Op, int N>
SM_INLINE void multiply(vf (&values)[2][N], const Row& by, int c, int x) {
  for (int v = 0; v < N; ++v) {
    vf first, second;
    Op::get(by, c, x + v * VL, first, second);
    values[0][v] *= first;
    values[1][v] *= second;
  }
}

}  // namespace SM_ISA
}  // namespace seemore
