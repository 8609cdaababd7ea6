// What the operators' kernels share: images in three types, sums over a warp, the slope of GELU.
#pragma once

#include "cuda/numeric.cuh"

namespace seemore {
namespace cuda {

struct Float32 {
  using Element = float;
  static SM_DEVICE float load(const Element* p) { return __ldg(p); }
  static SM_DEVICE void store(Element* p, float v) { *p = v; }
};
struct Float16 {
  using Element = uint16_t;
  static SM_DEVICE float load(const Element* p) { return unpack_half2(__ldg(p)).x; }
  static SM_DEVICE void store(Element* p, float v) { *p = (uint16_t)pack_half2(v, 0); }
};
struct BFloat16 {
  using Element = uint16_t;
  static SM_DEVICE float load(const Element* p) { return unpack_bf162(__ldg(p)).x; }
  static SM_DEVICE void store(Element* p, float v) { *p = (uint16_t)pack_bf162(v, 0); }
};

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
