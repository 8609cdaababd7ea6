// Rows of pixels times packed matrices, in fp32 or bf16 operands.
//
// A row is [channels][pitch] floats, a pointer to it points at column 0, and columns before 0 exist (halo).
// The micro-kernel keeps 12 output channels x 2 vectors of pixels in registers (x 1 with 16 registers).
#pragma once

#include "engine.h"
#include "simd.h"

namespace seemore {
namespace SM_ISA {

struct Row {
  float* p;         // channel 0, column 0
  ptrdiff_t pitch;  // between channels

  // A buffer of a chunk's width, addressed by the columns of a chunk that starts at x.
  SM_INLINE Row window(int x) const { return {p - x, pitch}; }
  SM_INLINE float* at(int channel, int x) const { return p + channel * pitch + x; }
};

// Vectors of pixels in one micro-kernel call: what 12 rows of accumulators leave room for.
constexpr int kTileVectors = VL == 16 ? 2 : 1;

// Matrix operands as fp32: one channel a unit.
struct Fp32 {
  static constexpr int kPack = 1;
  SM_INLINE static vf multiply_add(vf acc, vf x, const float* w) { return acc + x * *w; }
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
};

#if defined(__AVX512BF16__)
// Matrix operands as pairs of bf16 channels, side by side in 32 bits: what vdpbf16ps multiplies.
struct Bf16 {
  static constexpr int kPack = 2;
  SM_INLINE static vf multiply_add(vf acc, vf x, const float* w) {
    int32_t pair;
    memcpy(&pair, w, 4);
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)_mm512_set1_epi32(pair));
  }
  SM_INLINE static void put(const Row& row, int c, int x, vf first, vf second) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    const __m512i low =
        _mm512_set_epi32(0x1f000f, 0x1e000e, 0x1d000d, 0x1c000c, 0x1b000b, 0x1a000a, 0x190009, 0x180008,
                         0x170007, 0x160006, 0x150005, 0x140004, 0x130003, 0x120002, 0x110001, 0x100000);
    store(row.at(c / 2, x), (vf)_mm512_permutexvar_epi16(low, both));
  }
  SM_INLINE static void get(const Row& row, int c, int x, vf& first, vf& second) {
    split(load(row.at(c / 2, x)), first, second);
  }
  SM_INLINE static void split(vf pairs, vf& first, vf& second) {
    first = (vf)((vi)pairs << 16);
    second = (vf)((vi)pairs & (int32_t)0xffff0000);
  }
};
#endif

// A number of vectors known at compile time: kernels between the products compute several at once, to hide
// latency and to load each weight once for all of them.
template <int N>
struct Vectors {};

constexpr int kUnroll = 4;

// Calls f(Vectors<n>(), x) over [x0, x1): kUnroll vectors at a time, then one.
template <class F>
SM_INLINE void each_column(int x0, int x1, F f) {
  int x = x0;
  for (; x + kUnroll * VL <= x1; x += kUnroll * VL) f(Vectors<kUnroll>(), x);
  for (; x < x1; x += VL) f(Vectors<1>(), x);
}

// Columns worked on at once where a product's operands are made just before it: they stay in the L1 cache.
constexpr int kChunk = 64;

// Calls f(from, to) for the chunks of [x0, x1).
template <class F>
SM_INLINE void each_chunk(int x0, int x1, F f) {
  for (int x = x0; x < x1; x += kChunk) f(x, x + kChunk < x1 ? x + kChunk : x1);
}

// Asks for columns [from, to) of a row's channels.
SM_INLINE void fetch_columns(const Row& row, int channel, int channels, int from, int to) {
  for (int c = channel; c < channel + channels; ++c)
    for (int x = from; x < to; x += 16) __builtin_prefetch(row.at(c, x));
}

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

enum class Epilogue {
  kStore,        // out = W x + b
  kOperand,      // the same, to an operand row
  kGeluOperand,  // GELU(W x + b) to an operand row
  kResidual,     // out = residual + W x + b
  kGeluResidual  // out = residual + GELU(W x + b)
};

// The operand rows of each tap, already shifted; at most 9 are used at once.
struct Taps {
  const float* p[9];  // channel unit 0, column 0
  ptrdiff_t pitch;
};

SM_INLINE Taps one_tap(const Row& row) { return {{row.p}, row.pitch}; }

SM_INLINE Taps nine_taps(const Row in[3]) {
  Taps taps = {{}, in[0].pitch};
  for (int t = 0; t < 9; ++t) taps.p[t] = in[t / 3].p + t % 3 - 1;
  return taps;
}

template <class Op, int MR, int NV, Epilogue E>
SM_INLINE void tile(const float* w, const float* bias, const Taps& in, int taps, int k, int x, const Row& out,
                    int m0, const Row& residual) {
  constexpr bool kAdds = E == Epilogue::kResidual || E == Epilogue::kGeluResidual;
  constexpr bool kGelu = E == Epilogue::kGeluOperand || E == Epilogue::kGeluResidual;
  constexpr bool kOperand = E == Epilogue::kOperand || E == Epilogue::kGeluOperand;
  constexpr int kPack = kOperand ? Op::kPack : 1;
  // Copies, for the compiler must assume that stores change what it has by reference.
  float* to = out.at(m0 / kPack, x);
  const float* from = kAdds ? residual.at(m0, x) : nullptr;
  const ptrdiff_t to_pitch = out.pitch, from_pitch = residual.pitch;
  vf acc[MR][NV];
#pragma GCC unroll 12
  for (int i = 0; i < MR; ++i)
    for (int v = 0; v < NV; ++v) {
      acc[i][v] = splat(bias[i]);
      // Stores retire in order: 24 of them to lines that come one after the other from the L2 or L3 cache
      // can take longer than the products.  Asked for here, the lines come together, and meanwhile.
      if (i % kPack == 0) __builtin_prefetch(to + i / kPack * to_pitch + (NV + v) * VL, 1);
      if (kAdds) __builtin_prefetch(from + i * from_pitch + (NV + v) * VL, 0);
    }
  for (int t = 0; t < taps; ++t) {
    const float* p = in.p[t] + x;
    for (int u = 0; u < k; ++u) {
      vf xv[NV];
      for (int v = 0; v < NV; ++v) xv[v] = load(p + v * VL);
#pragma GCC unroll 12
      for (int i = 0; i < MR; ++i)
        for (int v = 0; v < NV; ++v) acc[i][v] = Op::multiply_add(acc[i][v], xv[v], w + i);
      p += in.pitch;
      w += MR;
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < MR; i += 2) {
    for (int v = 0; v < NV; ++v) {
      vf first = acc[i][v], second = acc[i + 1][v];
      if (kGelu) first = gelu(first), second = gelu(second);
      if (kAdds) {
        first += load(from + v * VL);
        second += load(from + from_pitch + v * VL);
      }
      if constexpr (kOperand)
        Op::put({to, to_pitch}, 0, v * VL, first, second);
      else
        Fp32::put({to, to_pitch}, 0, v * VL, first, second);
    }
    to += 2 / kPack * to_pitch;
    from += 2 * from_pitch;
  }
}

template <class Op, int NV, Epilogue E>
__attribute__((noinline)) void block(const float* w, const float* bias, const Taps& in, int taps, int k,
                                     int rows, int x, const Row& out, int m0, const Row& residual) {
  if (rows == 12) return tile<Op, 12, NV, E>(w, bias, in, taps, k, x, out, m0, residual);
  if (rows == 8) return tile<Op, 8, NV, E>(w, bias, in, taps, k, x, out, m0, residual);
  tile<Op, 4, NV, E>(w, bias, in, taps, k, x, out, m0, residual);
}

// All of a matrix for columns [x0, x1); both are multiples of VL.
template <class Op, Epilogue E>
SM_INLINE void matmul(const Matrix& a, const Taps& in, int x0, int x1, const Row& out,
                      const Row& residual = Row()) {
  const int step = a.taps * a.k;
  for (int x = x0; x < x1;) {
    const bool wide = x + kTileVectors * VL <= x1;
    for (int m = 0; m < a.m; m += kBlock) {
      const int rows = a.m - m < kBlock ? a.m - m : kBlock;
      const float* w = a.weight + (size_t)m * step;
      if (wide)
        block<Op, kTileVectors, E>(w, a.bias + m, in, a.taps, a.k, rows, x, out, m, residual);
      else
        block<Op, 1, E>(w, a.bias + m, in, a.taps, a.k, rows, x, out, m, residual);
    }
    x += wide ? kTileVectors * VL : VL;
  }
}

}  // namespace SM_ISA
}  // namespace seemore
