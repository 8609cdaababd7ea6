// What all precisions share: GELU, lanes, vectors in memory, matrices in registers.
#pragma once

#include "cuda/ptx.cuh"

namespace seemore {
namespace cuda {

// GELU(x) = max(x, 0) - |x| 2^p(|x|), with an absolute error below 2e-7 (docs/cuda-engine.md). NaN stays NaN.
SM_DEVICE float gelu(float x) {
  const float a = fminf(fabsf(x), 8.0f);  // far out 2^p is 0; infinity times 0 would be NaN
  float p = 3.59368744e-05f;
  p = fmaf(p, a, -0.000794658353f);
  p = fmaf(p, a, 0.00816639307f);
  p = fmaf(p, a, -0.0535473593f);
  p = fmaf(p, a, -0.458668745f);
  p = fmaf(p, a, -1.15123525f);
  p = fmaf(p, a, -0.999989593f);
  return fmaf(-a, exp2_approx(p), max_nan(x, 0.0f));
}

// The same to 6e-5, with p of degree 3 in n = -|x|: for 16-bit results. Infinity becomes NaN.
SM_DEVICE float gelu_to_bf16(float x) {
  const float n = fminf(x, -x);
  float p = fmaf(n, 0.0248292701f, -0.499042782f);
  p = fmaf(p, n, 1.12899777f);
  p = fmaf(p, n, -1.00360567f);
  return fmaf(n, exp2_approx(p), fmaxf(x, 0.0f));
}

SM_DEVICE unsigned gelu_half2(unsigned x) {
  const unsigned n = min_half2(x, negated_half2(x));
  unsigned p = fma_half2(n, 0x265b265bu, 0xb7fcb7fcu);  // the same coefficients
  p = fma_half2(p, n, 0x3c843c84u);
  p = fma_half2(p, n, 0xbc04bc04u);
  return fma_half2(n, exp2_half2(p), max_half2(x, 0));
}

// 16 bytes of activations or weights.
template <class Word>
struct alignas(16) VecOf {
  Word w[4];
};

// One of four words, known to the compiler.
SM_DEVICE unsigned word_of(const uint4& q, int i) { return i == 0 ? q.x : i == 1 ? q.y : i == 2 ? q.z : q.w; }

SM_DEVICE int lane_id() { return threadIdx.x & 31; }

SM_DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(kFullMask, x, 1);
  return x + __shfl_xor_sync(kFullMask, x, 2);
}

// A matrix of 8 KT inputs and 8 NT outputs in the registers of a warp.
template <class P, int NT, int KT>
struct Matrix {
  static constexpr int kVectors = (P::kWordsPerTile * NT * KT + 3) / 4;
  uint4 v[kVectors];

  // part: of matrices that follow one another.
  SM_DEVICE void fetch(const void* weight, int part = 0) {
    fetch_own(static_cast<const uint4*>(weight) + (size_t)part * kVectors * 32 + lane_id());
  }
  // from: where the lane's share begins; step: vectors of all lanes from one of a lane's to the next.
  SM_DEVICE void fetch_own(const uint4* from, int step = 1) {
    SM_UNROLL
    for (int i = 0; i < kVectors; ++i) v[i] = __ldg(from + 32 * step * i);
  }
  SM_DEVICE unsigned word(int i) const { return word_of(v[i / 4], i % 4); }
};

}  // namespace cuda
}  // namespace seemore
