// Head: conv_1((x - mean) * range), 3x3, zero padded.
#pragma once

#include "cuda/engine/tile.cuh"

namespace seemore {
namespace cuda {

SM_DEVICE float read_pixel(const void* image, size_t at, PixelType type) {
  switch (type) {
    case PixelType::kFloat32:
      return __ldg(static_cast<const float*>(image) + at);
    case PixelType::kFloat16:
      return unpack_half2(__ldg(static_cast<const uint16_t*>(image) + at)).x;
    case PixelType::kBFloat16:
      return unpack_bf162(__ldg(static_cast<const uint16_t*>(image) + at)).x;
    default:
      return __ldg(static_cast<const uint8_t*>(image) + at) / 255.0f;
  }
}

// In float32, a thread computes 8 channels of a pixel.
template <class P>
SM_DEVICE void head_kernel(const HeadParams& p) {
  const Tiling& at = p.at;
  const int tiles = p.channels / 8;
  const size_t pixels = (size_t)at.h * at.w;
  const size_t task = (size_t)blockIdx.x * kThreads + threadIdx.x;
  if (task >= pixels * tiles) return;
  const size_t pixel = task / tiles;
  const int tile = task % tiles, y = pixel / at.w, x = pixel % at.w, n = blockIdx.z;
  float acc[8];
  SM_UNROLL
  for (int i = 0; i < 8; ++i) acc[i] = __ldg(p.bias + 8 * tile + i);
  for (int channel = 0; channel < p.in_chans; ++channel) {
    const size_t plane = ((size_t)n * p.in_chans + channel) * pixels;
    const float mean = __ldg(p.mean + channel);
    for (int tap = 0; tap < 9; ++tap) {
      const int from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;
      if (!inside(at, from_y, from_x)) continue;
      const float value = (read_pixel(p.in, plane + (size_t)from_y * at.w + from_x, p.type) - mean) * p.range;
      const float* weight = p.weight + ((size_t)channel * 9 + tap) * p.channels + 8 * tile;
      SM_UNROLL
      for (int i = 0; i < 8; ++i) acc[i] = fmaf(value, __ldg(weight + i), acc[i]);
    }
  }
  auto* out = static_cast<typename P::Element*>(p.out) + image_start(at, n, p.channels) + pixel * p.channels +
              8 * tile;
  SM_UNROLL
  for (int i = 0; i < 8; i += 2) P::store_pair(out + i, make_float2(acc[i], acc[i + 1]));
}

}  // namespace cuda
}  // namespace seemore
