// The functions of cuda/ptx.cuh in scalar code, with the same fragment layouts; implemented in
// ptx_on_host.cc.
#pragma once

#include "cudasim/cuda_on_host.h"

namespace seemore {
namespace cuda {

inline float exp2_approx(float x) { return exp2f(x); }
inline float max_nan(float x, float y) { return x > y || x != x ? x : y; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }

inline unsigned low_twice(unsigned a) { return (a & 0xffff) | a << 16; }
inline unsigned high_twice(unsigned a) { return (a & 0xffff0000u) | a >> 16; }
inline void store_global(void* to, uint4 v) { *static_cast<uint4*>(to) = v; }
inline void store_global(void* to, uint2 v) { *static_cast<uint2*>(to) = v; }
inline void store_shared(void* to, uint4 v) { *static_cast<uint4*>(to) = v; }
inline void copy_to_shared(void* to, const void* from) {
  *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
}
inline void copy_to_shared(void* to, const void* from, bool there) {
  *static_cast<uint4*>(to) = there ? *static_cast<const uint4*>(from) : uint4{};
}
inline void wait_for_copies() {}
template <class T>
const T* found_here(const T* p) {
  return p;
}
inline int found_here(int x) { return x; }
inline int thread_found_here() { return threadIdx.x; }
inline uint2 block_found_here() { return {blockIdx.x, blockIdx.y}; }

float round_tf32(float x);
unsigned pack_half2(float low, float high);
float2 unpack_half2(unsigned both);
unsigned pack_bf162(float low, float high);
float2 unpack_bf162(unsigned both);
unsigned fma_half2(unsigned a, unsigned b, unsigned c);
unsigned add_half2(unsigned a, unsigned b);
unsigned mul_half2(unsigned a, unsigned b);
unsigned max_half2(unsigned a, unsigned b);
unsigned min_half2(unsigned a, unsigned b);
inline unsigned negated_half2(unsigned a) { return a ^ 0x80008000u; }
unsigned exp2_half2(unsigned a);
unsigned fma_bf162(unsigned a, unsigned b, unsigned c);

constexpr bool kStoresMatrices = false;
inline void stmatrix_x4(void*, const unsigned (&)[2], const unsigned (&)[2]) {}
inline void stmatrix_x2(void*, const unsigned (&)[2]) {}

void ldmatrix_x4(unsigned (&out)[4], const void* row, int line = __builtin_LINE());
void ldmatrix_x2(unsigned (&out)[2], const void* row, int line = __builtin_LINE());
void ldmatrix_x4_transposed(unsigned (&out)[4], const void* row, int line = __builtin_LINE());
void mma_k16_half(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b,
                  int line = __builtin_LINE());
void mma_k16_bf16(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b,
                  int line = __builtin_LINE());
void mma_k8_half(float (&d)[4], const unsigned (&a)[2], unsigned b, int line = __builtin_LINE());
void mma_k8_bf16(float (&d)[4], const unsigned (&a)[2], unsigned b, int line = __builtin_LINE());
void mma_k16_half_first(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b,
                        int line = __builtin_LINE());
void mma_k16_bf16_first(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b,
                        int line = __builtin_LINE());
void mma_k8_half_first(float (&d)[4], const unsigned (&a)[2], unsigned b, int line = __builtin_LINE());
void mma_k8_bf16_first(float (&d)[4], const unsigned (&a)[2], unsigned b, int line = __builtin_LINE());
void mma_k16_half(unsigned (&d)[2], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b,
                  int line = __builtin_LINE());
void mma_k8_half(unsigned (&d)[2], const unsigned (&a)[2], unsigned b, int line = __builtin_LINE());
void mma_k16_half_first(unsigned (&d)[2], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b,
                        int line = __builtin_LINE());
void mma_k8_tf32(float (&d)[4], float a0, float a1, float a2, float a3, float2 b,
                 int line = __builtin_LINE());

}  // namespace cuda
}  // namespace seemore
