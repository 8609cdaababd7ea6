// Every instruction that CUDA C++ has no name for, as one function each; cudasim/ptx_on_host.h has the same
// functions in scalar code.
//
// Fragments: lane = 4 g + t holds of a 16 x 8 tile the elements (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1); 16-bit operands two to a register, the lower column in the lower half.
#pragma once

#include "cuda/device.cuh"

#ifdef SEEMORE_CUDASIM
#include "cudasim/ptx_on_host.h"
#else

namespace seemore {
namespace cuda {

SM_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The larger; NaN if either is.
SM_DEVICE float max_nan(float x, float y) {
  float z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

// To TensorFloat-32: 10 bits of fraction, rounded to nearest, ties away from zero.
SM_DEVICE float round_tf32(float x) {
  unsigned y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
}

// Two 16-bit floats in a register, the first in the lower half.
SM_DEVICE unsigned pack_half2(float low, float high) {
  unsigned both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
SM_DEVICE float2 unpack_half2(unsigned both) {
  float2 v;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(v.x), "=f"(v.y)
      : "r"(both));
  return v;
}
SM_DEVICE unsigned pack_bf162(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
SM_DEVICE float2 unpack_bf162(unsigned both) {
  return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
}

// Arithmetic on both halves, each result rounded once. Of max and min, NaN loses against a number.
#define SM_PACKED_3(name, instruction)                                      \
  SM_DEVICE unsigned name(unsigned a, unsigned b, unsigned c) {             \
    unsigned d;                                                             \
    asm(instruction " %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); \
    return d;                                                               \
  }
#define SM_PACKED_2(name, instruction)                          \
  SM_DEVICE unsigned name(unsigned a, unsigned b) {             \
    unsigned d;                                                 \
    asm(instruction " %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b)); \
    return d;                                                   \
  }
SM_PACKED_3(fma_half2, "fma.rn.f16x2")
SM_PACKED_2(add_half2, "add.rn.f16x2")
SM_PACKED_2(mul_half2, "mul.rn.f16x2")
SM_PACKED_2(max_half2, "max.f16x2")
SM_PACKED_2(min_half2, "min.f16x2")
SM_PACKED_3(fma_bf162, "fma.rn.bf16x2")
#undef SM_PACKED_3
#undef SM_PACKED_2
SM_DEVICE unsigned negated_half2(unsigned a) {
  unsigned d;
  asm("neg.f16x2 %0, %1;" : "=r"(d) : "r"(a));
  return d;
}
SM_DEVICE unsigned exp2_half2(unsigned a) {
  unsigned d;
  asm("ex2.approx.f16x2 %0, %1;" : "=r"(d) : "r"(a));
  return d;
}

// One half of a register in both.
SM_DEVICE unsigned low_twice(unsigned a) {
  unsigned d;
  asm("prmt.b32 %0, %1, %1, 0x1010;" : "=r"(d) : "r"(a));
  return d;
}
SM_DEVICE unsigned high_twice(unsigned a) {
  unsigned d;
  asm("prmt.b32 %0, %1, %1, 0x3232;" : "=r"(d) : "r"(a));
  return d;
}

// 16 bytes, or 8, to global memory: the compiler makes several stores of one at times.
SM_DEVICE void store_global(void* to, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

SM_DEVICE void store_global(void* to, uint2 v) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};"
               :
               : "l"(__cvta_generic_to_global(to)), "r"(v.x), "r"(v.y)
               : "memory");
}

// Likewise to shared memory.
SM_DEVICE void store_shared(void* to, uint4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
               : "memory");
}

// 16 bytes from global to shared memory, past registers; zeros if not `there`. They have arrived when
// wait_for_copies() returns, for the thread that has asked for them: others need a barrier, too.
SM_DEVICE void copy_to_shared(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))), "l"(__cvta_generic_to_global(from))
               : "memory");
}
SM_DEVICE void copy_to_shared(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
               : "memory");
}
SM_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// The same address, as if found here: what is loaded from it is not loaded before a loop, and kept.
template <class T>
SM_DEVICE const T* found_here(const T* p) {
  asm volatile("" : "+l"(p));
  return p;
}

// A number, likewise.
SM_DEVICE int found_here(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// The thread's number, and the block's place in the grid.
SM_DEVICE int thread_found_here() {
  int x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}
SM_DEVICE uint2 block_found_here() {
  uint2 at;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(at.x));
  asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(at.y));
  return at;
}

// Four 8 x 8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes,
// aligned, in shared memory), and receives of each the elements (g, 2t), (g, 2t + 1).
SM_DEVICE void ldmatrix_x4(unsigned (&out)[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
// Two such matrices: the addresses of lanes 0..15 count.
SM_DEVICE void ldmatrix_x2(unsigned (&out)[2], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(address)
               : "memory");
}

// Four matrices, each transposed: a lane receives the elements (2t, g), (2t + 1, g).
SM_DEVICE void ldmatrix_x4_transposed(unsigned (&out)[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

// The other way; compute capability 9.0 and later have it.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kStoresMatrices = true;
SM_DEVICE void stmatrix_x4(void* row, const unsigned (&a)[2], const unsigned (&b)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))), "r"(a[0]), "r"(a[1]), "r"(b[0]),
                 "r"(b[1])
               : "memory");
}
SM_DEVICE void stmatrix_x2(void* row, const unsigned (&a)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))), "r"(a[0]), "r"(a[1])
               : "memory");
}
#else
constexpr bool kStoresMatrices = false;
SM_DEVICE void stmatrix_x4(void*, const unsigned (&)[2], const unsigned (&)[2]) {}
SM_DEVICE void stmatrix_x2(void*, const unsigned (&)[2]) {}
#endif

// d += A B with float32 accumulation. A is 16 x k: per 8 columns {rows g, rows g + 8}; B is k x 8: per 8 rows
// one register with (2t, g), (2t + 1, g).
#define SM_MMA_16BIT(name, type)                                                                            \
  SM_DEVICE void mma_k16_##name(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) { \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                              \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                              \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                    \
        : "r"(a0[0]), "r"(a0[1]), "r"(a1[0]), "r"(a1[1]), "r"(b.x), "r"(b.y));                              \
  }                                                                                                         \
  SM_DEVICE void mma_k8_##name(float (&d)[4], const unsigned (&a)[2], unsigned b) {                         \
    asm("mma.sync.aligned.m16n8k8.row.col.f32." type "." type                                               \
        ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"                                          \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                    \
        : "r"(a[0]), "r"(a[1]), "r"(b));                                                                    \
  }                                                                                                         \
  /* d = A B */                                                                                             \
  SM_DEVICE void mma_k8_##name##_first(float (&d)[4], const unsigned (&a)[2], unsigned b) {                 \
    asm("mma.sync.aligned.m16n8k8.row.col.f32." type "." type                                               \
        ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"                                          \
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                    \
        : "r"(a[0]), "r"(a[1]), "r"(b), "f"(0.0f));                                                         \
  }                                                                                                         \
  SM_DEVICE void mma_k16_##name##_first(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2],    \
                                        uint2 b) {                                                          \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                              \
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"                          \
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                    \
        : "r"(a0[0]), "r"(a0[1]), "r"(a1[0]), "r"(a1[1]), "r"(b.x), "r"(b.y), "f"(0.0f));                   \
  }
SM_MMA_16BIT(half, "f16")
SM_MMA_16BIT(bf16, "bf16")
#undef SM_MMA_16BIT

// The same with sums of float16, rounded after each product: two to a register.
SM_DEVICE void mma_k16_half(unsigned (&d)[2], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
      : "+r"(d[0]), "+r"(d[1])
      : "r"(a0[0]), "r"(a0[1]), "r"(a1[0]), "r"(a1[1]), "r"(b.x), "r"(b.y));
}
SM_DEVICE void mma_k8_half(unsigned (&d)[2], const unsigned (&a)[2], unsigned b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3}, {%4}, {%0, %1};"
      : "+r"(d[0]), "+r"(d[1])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}
SM_DEVICE void mma_k16_half_first(unsigned (&d)[2], const unsigned (&a0)[2], const unsigned (&a1)[2],
                                  uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%8, %8};"
      : "=r"(d[0]), "=r"(d[1])
      : "r"(a0[0]), "r"(a0[1]), "r"(a1[0]), "r"(a1[1]), "r"(b.x), "r"(b.y), "r"(0));
}

// d += A B in TensorFloat-32, k = 8. Lane holds of A (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), and of B
// (t, g), (t + 4, g).
SM_DEVICE void mma_k8_tf32(float (&d)[4], float a0, float a1, float a2, float a3, float2 b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)),
        "r"(__float_as_uint(a3)), "r"(__float_as_uint(b.x)), "r"(__float_as_uint(b.y)));
}

}  // namespace cuda
}  // namespace seemore
#endif
