// CUDA C++ for g++: what the kernels in csrc/cuda use of the language, in terms of executor.h.
#pragma once

#include <cmath>
#include <cstring>

#include "cudasim/executor.h"

#define __global__
#define __device__
#define __forceinline__ __attribute__((always_inline)) inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define SM_DYNAMIC_SHARED(name) unsigned char* const name = ::cudasim::shared()

#define threadIdx (::cudasim::thread_idx())
#define blockIdx (::cudasim::block_idx())
#define blockDim (::cudasim::block_dim())
#define gridDim (::cudasim::grid_dim())

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  return bits;
}

inline float2 make_float2(float x, float y) { return {x, y}; }

template <class T>
inline T __ldg(const T* p) {
  return *p;
}

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  ::cudasim::barrier({"__syncthreads", file, line});
}

inline void __syncwarp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  ::cudasim::warp_barrier({"__syncwarp", file, line});
}

inline float __shfl_sync(unsigned mask, float value, int source, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  return ::cudasim::shuffle({"__shfl_sync", file, line}, mask, value, source & 31);
}

inline float __shfl_xor_sync(unsigned mask, float value, int distance, const char* file = __builtin_FILE(),
                             int line = __builtin_LINE()) {
  return ::cudasim::shuffle({"__shfl_xor_sync", file, line}, mask, value,
                            (::cudasim::lane() ^ distance) & 31);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, const char* file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
  return ::cudasim::ballot({"__ballot_sync", file, line}, mask, predicate != 0);
}
