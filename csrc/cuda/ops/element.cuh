// What the operators' kernels share: images in three types, sums over a warp, the slope of GELU.
#pragma once

#include "cuda/numeric.cuh"

namespace seemore {
namespace cuda {

struct Float32 {
  using Element = float;
  static SM_DEVICE float load(const Element* p) { return __ldg(p); }
  static SM_DEVICE void store(Element* p, float v) { *p = v; }
  // Four neighbours, at an address that is a multiple of their size.
  static SM_DEVICE void load(const Element* p, float (&v)[4]) {
    const float4 four = __ldg(reinterpret_cast<const float4*>(p));
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
  }
  static SM_DEVICE void store(Element* p, const float (&v)[4]) {
    *reinterpret_cast<float4*>(p) = {v[0], v[1], v[2], v[3]};
  }
};

// Of 16 bits.
template <float2 (*kUnpack)(unsigned), unsigned (*kPack)(float, float)>
struct Halves {
  using Element = uint16_t;
  static SM_DEVICE float load(const Element* p) { return kUnpack(__ldg(p)).x; }
  static SM_DEVICE void store(Element* p, float v) { *p = (uint16_t)kPack(v, 0); }
  static SM_DEVICE void load(const Element* p, float (&v)[4]) {
    const uint2 four = __ldg(reinterpret_cast<const uint2*>(p));
    const float2 left = kUnpack(four.x), right = kUnpack(four.y);
    v[0] = left.x, v[1] = left.y, v[2] = right.x, v[3] = right.y;
  }
  static SM_DEVICE void store(Element* p, const float (&v)[4]) {
    *reinterpret_cast<uint2*>(p) = {kPack(v[0], v[1]), kPack(v[2], v[3])};
  }
};
using Float16 = Halves<unpack_half2, pack_half2>;
using BFloat16 = Halves<unpack_bf162, pack_bf162>;

// Floats of shared memory, at a multiple of 16 bytes.
template <int N>
SM_DEVICE void fetch(float (&v)[N], const float* from) {
  SM_UNROLL
  for (int i = 0; i < N; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
  }
}
template <int N>
SM_DEVICE void put(float* to, const float (&v)[N]) {
  SM_UNROLL
  for (int i = 0; i < N; i += 4) *reinterpret_cast<float4*>(to + i) = {v[i], v[i + 1], v[i + 2], v[i + 3]};
}

// V neighbouring elements of an image, in memory or in the first of them.
template <class T, int V>
SM_DEVICE void load_run(float (&v)[V], const typename T::Element* p) {
  if constexpr (V == 1)
    v[0] = T::load(p);
  else
    T::load(p, v);
}
template <class T, int V>
SM_DEVICE void store_run(typename T::Element* p, const float (&v)[V]) {
  if constexpr (V == 1)
    T::store(p, v[0]);
  else
    T::store(p, v);
}

// The same of floats in shared memory.
template <int V>
SM_DEVICE void fetch_run(float (&v)[V], const float* from) {
  if constexpr (V == 1)
    v[0] = *from;
  else
    fetch(v, from);
}
template <int V>
SM_DEVICE void put_run(float* to, const float (&v)[V]) {
  if constexpr (V == 1)
    *to = v[0];
  else
    put(to, v);
}

SM_DEVICE int warp_id() { return threadIdx.x / 32; }

// The sum over the warp's lanes, in all of them.
SM_DEVICE float warp_sum(float value) {
  SM_UNROLL
  for (int distance = 16; distance; distance /= 2) value += __shfl_xor_sync(kFullMask, value, distance);
  return value;
}

// GELU'(x) = Phi(x) + x phi(x), Phi(-|x|) = 2^p(|x|): absolute error below 1e-6, as kernels/_device.py has
// it.
SM_DEVICE float gelu_slope(float x) {
  const float a = fminf(fabsf(x), 16.0f);
  float p = -0.000518858836f;
  p = fmaf(p, a, 0.00738720184f);
  p = fmaf(p, a, -0.0525380183f);
  p = fmaf(p, a, -0.459276684f);
  p = fmaf(p, a, -1.15108314f);
  p = fmaf(p, a, -1.00000084f);
  const float left = exp2_approx(p) - a * (0.39894228f * exp2_approx(-0.72134752f * a * a));
  return (x < 0 ? left : 1 - left) + (x - x);  // NaN stays
}

}  // namespace cuda
}  // namespace seemore
