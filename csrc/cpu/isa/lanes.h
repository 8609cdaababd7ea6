// Rows of any length by vectors: whole ones, then what is left, never touching memory outside the row.
//
// over_vectors<U>(n, f) calls f(i, lanes) with i covering 0 .. n - 1; `lanes` says how many vectors start at
// i and loads and stores them, so that a kernel's body is written once for blocks, single vectors and the
// tail.
#pragma once

#include "cpu/isa/simd.h"

namespace seemore {
namespace SM_ISA {

template <int U>
struct WholeVectors {
  static constexpr int vectors = U;
  SM_INLINE vf get(const float* p, int u) const { return load(p + u * VL); }
  SM_INLINE void put(float* p, int u, vf v) const { store(p + u * VL, v); }
};

// The first `count` lanes of one vector, 0 < count < VL; the others read as zero.
struct TailLanes {
  static constexpr int vectors = 1;
  int count;

#if defined(__AVX512F__)
  SM_INLINE __mmask16 mask() const { return (__mmask16)((1u << count) - 1); }
  SM_INLINE vf get(const float* p, int) const { return _mm512_maskz_loadu_ps(mask(), p); }
  SM_INLINE void put(float* p, int, vf v) const { _mm512_mask_storeu_ps(p, mask(), v); }
#elif defined(__AVX2__)
  SM_INLINE __m256i mask() const { return (__m256i)((vi){0, 1, 2, 3, 4, 5, 6, 7} < count); }
  SM_INLINE vf get(const float* p, int) const { return _mm256_maskload_ps(p, mask()); }
  SM_INLINE void put(float* p, int, vf v) const { _mm256_maskstore_ps(p, mask(), v); }
#else
  SM_INLINE vf get(const float* p, int) const {
    vf v = {};
    memcpy(&v, p, sizeof(float) * count);
    return v;
  }
  SM_INLINE void put(float* p, int, vf v) const { memcpy(p, &v, sizeof(float) * count); }
#endif
};

// Blocks of U vectors, then of half as many down to one, then the tail.
template <int U, class F>
SM_INLINE void over_vectors(int64_t n, const F& f, int64_t i = 0) {
  for (; i + U * VL <= n; i += U * VL) f(i, WholeVectors<U>{});
  if constexpr (U > 1) {
    over_vectors<U / 2>(n, f, i);
  } else if (i < n) {
    f(i, TailLanes{(int)(n - i)});
  }
}

}  // namespace SM_ISA
}  // namespace seemore
