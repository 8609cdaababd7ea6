// Numbers in the formats of operands: their bits, and what is left of a float32.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "seemore_cuda.h"

namespace seemore {
namespace cuda {

inline uint16_t half_bits(float x) { return std::bit_cast<uint16_t>((_Float16)x); }

inline uint16_t bf16_bits(float x) {
  if (x != x) return 0x7fff;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float half_value(uint16_t bits) { return std::bit_cast<_Float16>(bits); }

inline float bf16_value(uint16_t bits) { return std::bit_cast<float>((uint32_t)bits << 16); }

inline float tf32_value(float x) {
  if (!std::isfinite(x)) return x;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0x1000) & ~0x1fffu);
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

// 8 inputs of 8 outputs, value(output, input), of a format of 32 bits, as products have them; returns the
// end.
template <class F>
float* wide_block(sm_cuda_precision precision, float* to, F value) {
  if (precision == SM_CUDA_TF32) {
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 2; ++i) *to++ = tf32_value(value(lane / 4, 2 * (lane % 4) + i));
  } else {
    for (int t = 0; t < 4; ++t)
      for (int in = 0; in < 8; ++in)
        for (int i = 0; i < 2; ++i) *to++ = value(2 * t + i, in);
  }
  return to;
}

}  // namespace cuda
}  // namespace seemore
