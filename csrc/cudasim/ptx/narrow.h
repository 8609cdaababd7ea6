// float16 and bfloat16, alone and in pairs, as bits; rounding is to nearest, ties to even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace cudasim::ptx {

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};
template <class T>
struct Pair {
  T low, high;
};

inline float value(F16 x) { return (float)std::bit_cast<_Float16>(x.bits); }
inline float value(BF16 x) { return std::bit_cast<float>((uint32_t)x.bits << 16); }

template <class T>
T narrow(float x);
template <>
inline F16 narrow<F16>(float x) {
  if (x != x) return {0x7fff};
  return {std::bit_cast<uint16_t>((_Float16)x)};
}
template <>
inline BF16 narrow<BF16>(float x) {
  if (x != x) return {0x7fff};
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <class T>
Pair<T> narrow_pair(float low, float high) {
  return {narrow<T>(low), narrow<T>(high)};
}

// a b + c, rounded once: the product is exact in float32, and the sum is rounded to odd there, so that the
// rounding to 16 bits sees on which side it lay.
template <class T>
T fused(T a, T b, T c) {
  const float product = value(a) * value(b), addend = value(c);
  const float sum = product + addend;
  const float part = sum - product;
  const float error = (product - (sum - part)) + (addend - part);
  uint32_t bits = std::bit_cast<uint32_t>(sum);
  if (std::isfinite(sum) && error != 0 && !(bits & 1)) bits += (error > 0) == (sum > 0) ? 1 : -1;
  return narrow<T>(std::bit_cast<float>(bits));
}

}  // namespace cudasim::ptx
