// Rows of pixels times packed matrices, in fp32 or bf16 operands.
//
// The micro-kernel keeps 12 output channels x 2 vectors of pixels in registers (6 x 2 with 16 registers).  On
// ARM64 its multiply-adds take a weight from a lane, so that three loads bring all twelve.
#pragma once

#include "cpu/isa/gelu.h"
#include "cpu/rows/matrix.h"
#include "cpu/rows/operand.h"

namespace seemore {
namespace SM_ISA {

constexpr int kTileVectors = 2;                            // of pixels, in one call of the micro-kernel
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;  // vectors of sums that the registers hold
constexpr int kLine = 16;                                  // floats of a cache line

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

// Whether taps are summed apart, each by itself and then all: one sum of nine taps' products errs three times
// as much.  Not in bf16, whose operands err more than that.
template <class Op>
constexpr bool kTapsApart = Op::kPack == 1;

SM_INLINE Taps one_tap(const Row& row) { return {{row.p}, row.pitch}; }

SM_INLINE Taps nine_taps(const Row in[3]) {
  Taps taps = {{}, in[0].pitch};
  for (int t = 0; t < 9; ++t) taps.p[t] = in[t / 3].p + t % 3 - 1;
  return taps;
}

// One step's weights for MR output channels, [MR].
template <int MR>
struct StepWeights {
#if defined(__ARM_NEON)
  vf vectors[MR / VL];

  SM_INLINE explicit StepWeights(const float* w) {
    for (int i = 0; i < MR / VL; ++i) vectors[i] = load(w + i * VL);
  }
  SM_INLINE float operator[](int i) const { return vectors[i / VL][i % VL]; }
#else
  const float* w;

  SM_INLINE explicit StepWeights(const float* w_) : w(w_) {}
  SM_INLINE float operator[](int i) const { return w[i]; }
#endif
};

// kAhead > 0: asks for the operands that many columns further on, too.  kApart: sums taps apart.
template <class Op, int MR, int NV, Epilogue E, int kAhead = 0, bool kApart = false>
SM_INLINE void tile(const float* w, int step, const float* bias, const Taps& in, int taps, int k, int x,
                    const Row& out, int m0, const Row& residual) {
  constexpr bool kAdds = E == Epilogue::kResidual || E == Epilogue::kGeluResidual;
  constexpr bool kGelu = E == Epilogue::kGeluOperand || E == Epilogue::kGeluResidual;
  constexpr bool kOperand = E == Epilogue::kOperand || E == Epilogue::kGeluOperand;
  constexpr int kPack = kOperand ? Op::kPack : 1;
  constexpr int kFetch = NV * VL < kLine ? kLine : NV * VL;  // how far ahead lines are asked for
  // Copies, for the compiler must assume that stores change what it has by reference.
  float* to = out.at(m0 / kPack, x);
  const float* from = kAdds ? residual.at(m0, x) : nullptr;
  const ptrdiff_t to_pitch = out.pitch, from_pitch = residual.pitch;
  vf acc[MR][NV], before[kApart ? MR : 1][NV];
  SM_UNROLL(12)
  for (int i = 0; i < MR; ++i)
    for (int v = 0; v < NV; ++v) {
      acc[i][v] = splat(bias[i]);
      // Stores retire in order: 24 of them to lines that come one after the other from the L2 or L3 cache
      // can take longer than the products.  Asked for here, the lines come together, and meanwhile.
      if (VL < 8 && v > 0) continue;  // that line was asked for
      if (i % kPack == 0) __builtin_prefetch(to + i / kPack * to_pitch + kFetch + v * VL, 1);
      if (kAdds) __builtin_prefetch(from + i * from_pitch + kFetch + v * VL, 0);
    }
  for (int t = 0; t < taps; ++t) {
    const float* p = in.p[t] + x;
    SM_UNROLL(12)
    for (int i = 0; kApart && t > 0 && i < MR; ++i)
      for (int v = 0; v < NV; ++v) before[i][v] = acc[i][v], acc[i][v] = vf{};
    for (int u = 0; u < k; ++u) {
      vf xv[NV];
      for (int v = 0; v < NV; ++v) xv[v] = load(p + v * VL);
      if (kAhead > 0) __builtin_prefetch(p + kAhead);
      const StepWeights<MR> weights(w);
      SM_UNROLL(12)
      for (int i = 0; i < MR; ++i)
        for (int v = 0; v < NV; ++v) acc[i][v] = Op::multiply_add(acc[i][v], xv[v], weights[i]);
      p += in.pitch;
      w += step;
    }
    SM_UNROLL(12)
    for (int i = 0; kApart && t > 0 && i < MR; ++i)
      for (int v = 0; v < NV; ++v) acc[i][v] += before[i][v];
  }
  SM_UNROLL(6)
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

template <class Op, int NV, Epilogue E, int kAhead = 0, bool kApart = false>
__attribute__((noinline)) void block(const float* w, const float* bias, const Taps& in, int taps, int k,
                                     int rows, int x, const Row& out, int m0, const Row& residual) {
  if (rows == 12 && NV * 12 > kAccumulators) {
    tile<Op, 6, NV, E, kAhead, kApart>(w, 12, bias, in, taps, k, x, out, m0, residual);
    tile<Op, 6, NV, E, 0, kApart>(w + 6, 12, bias + 6, in, taps, k, x, out, m0 + 6, residual);
  } else if (rows == 12) {
    tile<Op, 12, NV, E, kAhead, kApart>(w, 12, bias, in, taps, k, x, out, m0, residual);
  } else if (rows == 8 && NV * 8 > kAccumulators) {
    tile<Op, 4, NV, E, kAhead, kApart>(w, 8, bias, in, taps, k, x, out, m0, residual);
    tile<Op, 4, NV, E, 0, kApart>(w + 4, 8, bias + 4, in, taps, k, x, out, m0 + 4, residual);
  } else if (rows == 8) {
    tile<Op, 8, NV, E, kAhead, kApart>(w, 8, bias, in, taps, k, x, out, m0, residual);
  } else {
    tile<Op, 4, NV, E, kAhead, kApart>(w, 4, bias, in, taps, k, x, out, m0, residual);
  }
}

// All of a matrix for columns [x0, x1); both are multiples of VL.
template <class Op, Epilogue E, int kAhead = 0, bool kApart = false>
SM_INLINE void matmul(const Matrix& a, const Taps& in, int x0, int x1, const Row& out,
                      const Row& residual = Row()) {
  const size_t step = (size_t)a.taps * a.k;
  for (int x = x0; x < x1;) {
    const bool whole = x + kTileVectors * VL <= x1;
    for (int m = 0; m < a.m; m += kBlock) {
      const int rows = a.m - m < kBlock ? a.m - m : kBlock;
      const float *w = a.weight + m * step, *bias = a.bias + m;
      if (!whole)
        block<Op, 1, E, 0, kApart>(w, bias, in, a.taps, a.k, rows, x, out, m, residual);
      else if (kAhead > 0 && m == 0)
        block<Op, kTileVectors, E, kAhead, kApart>(w, bias, in, a.taps, a.k, rows, x, out, m, residual);
      else
        block<Op, kTileVectors, E, 0, kApart>(w, bias, in, a.taps, a.k, rows, x, out, m, residual);
    }
    x += whole ? kTileVectors * VL : VL;
  }
}

}  // namespace SM_ISA
}  // namespace seemore
