// Numbers in the formats of operands: their bits, and what is left of a float32.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "seemore_cuda.h"

namespace seemore {
namespace cuda {

inline uint16_t half_bits(float x) {
  const _Float16 narrow = x;
  uint16_t bits;
  memcpy(&bits, &narrow, 2);
  return bits;
}

inline uint16_t bf16_bits(float x) {
  if (x != x) return 0x7fff;
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float half_value(uint16_t bits) {
  _Float16 x;
  memcpy(&x, &bits, 2);
  return x;
}

inline float bf16_value(uint16_t bits) {
  const uint32_t wide = (uint32_t)bits << 16;
  float x;
  memcpy(&x, &wide, 4);
  return x;
}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

inline float tf32_value(float x) {
  if (!std::isfinite(x)) return x;
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits = (bits + 0x1000) & ~0x1fffu;
  memcpy(&x, &bits, 4);
  return x;
}

// A number as the format has it.
inline float kept_by(sm_cuda_precision precision, float x) {
  if (precision == SM_CUDA_FP16) return half_value(half_bits(x));
  if (precision == SM_CUDA_BF16) return bf16_value(bf16_bits(x));
  return precision == SM_CUDA_TF32 ? tf32_value(x) : x;
}

// Two in a word of a format of 16 bits, the first in the lower half.
inline uint32_t pair_of(sm_cuda_precision precision, float low, float high) {
  auto bits = [&](float x) -> uint32_t { return precision == SM_CUDA_FP16 ? half_bits(x) : bf16_bits(x); };
  return bits(low) | bits(high) << 16;
}

}  // namespace cuda
}  // namespace seemore
