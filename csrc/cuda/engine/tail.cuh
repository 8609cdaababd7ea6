// Tail: conv_2(LN x) + skip; then the upsampler's convolution, PixelShuffle, scaling and mean.
#pragma once

#include "cuda/engine/tile.cuh"

namespace seemore {
namespace cuda {

template <class P, int NT>
constexpr int kTileStride = pixel_stride(8 * NT, sizeof(typename P::Element));

// A tile with halo 1 in shared memory, from a stream; with a norm, normalised.
template <class P, int NT>
SM_DEVICE void load_tile(typename P::Element* memory, int stride, const Tiling& at, Place place,
                         const void* stream, const Norm* norm) {
  const int pitch = at.tile_w + 2, count = (at.tile_h + 2) * pitch;
  const auto* in = static_cast<const typename P::Element*>(stream) + image_start(at, blockIdx.y, 8 * NT);
  for (int tile = threadIdx.x / 32; tile * 16 < count; tile += kWarps) {
    const Pixels pixels = pixels_of(at, [&](int row, int& y, int& x) {
      const int i = tile * 16 + row;
      y = place.y - 1 + i / pitch;
      x = place.x - 1 + i % pitch;
      return i < count;
    });
    float v[NT][4];
    load_pixels<P>(v, in, pixels);
    if (norm) {
      normalise(v, at.dim);
      apply(*norm, v);
    }
    store_shared<P>(memory, stride, v, pixels, [&](int row) {
      const int i = tile * 16 + row;
      return i < count ? i : -1;
    });
  }
}

// The 16 MT pixels from fragment `first` of the tile.
template <int MT>
SM_DEVICE void tile_pixels(Pixels (&pixels)[MT], const Tiling& at, Place place, int first) {
  SM_UNROLL
  for (int m = 0; m < MT; ++m)
    pixels[m] = pixels_of(at, [&](int row, int& y, int& x) {
      const int i = (first + m) * 16 + row;
      y = place.y + i / at.tile_w;
      x = place.x + i % at.tile_w;
      return i < at.tile_h * at.tile_w;
    });
}

// NT output tiles from `tile` on of the 3x3 convolution at those pixels.
template <class P, int MT, int NT, int KT>
SM_DEVICE void convolve_tile(float (&acc)[MT][NT][4], const typename P::Element* memory, int stride,
                             const Tiling& at, const Dense& layer, int tile, int first) {
  const int pitch = at.tile_w + 2, count = at.tile_h * at.tile_w;
  conv3x3<P, MT, NT, KT>(acc, memory, stride, pitch, layer, tile, [&](int m, int row) {
    const int i = min((first + m) * 16 + row, count - 1);
    return i / at.tile_w * pitch + i % at.tile_w;
  });
}

template <class P, int NT>
SM_DEVICE void conv_kernel(const ConvParams& p) {
  constexpr int MT = sizeof(typename P::Element) == 2 ? 2 : 1;
  SM_DYNAMIC_SHARED(shared_memory);
  auto* memory = reinterpret_cast<typename P::Element*>(shared_memory);
  const Tiling& at = p.at;
  const Place place = place_of(at, blockIdx.x);
  constexpr int stride = kTileStride<P, NT>;
  const int count = at.tile_h * at.tile_w;
  load_tile<P, NT>(memory, stride, at, place, p.in, &p.norm);
  __syncthreads();
  const size_t image = image_start(at, blockIdx.y, 8 * NT);
  for (int first = threadIdx.x / 32 * MT; first * 16 < count; first += kWarps * MT) {
    float acc[MT][NT][4];
    convolve_tile<P, MT, NT, NT>(acc, memory, stride, at, p.conv, 0, first);
    Pixels pixels[MT];
    tile_pixels(pixels, at, place, first);
    SM_UNROLL
    for (int m = 0; m < MT; ++m) {
      float skip[NT][4];
      load_pixels<P>(skip, static_cast<const typename P::Element*>(p.skip) + image, pixels[m]);
      add(acc[m], skip);
      store_pixels<P>(static_cast<typename P::Element*>(p.out) + image, 8 * NT, pixels[m], acc[m]);
    }
  }
}

SM_DEVICE void write_pixel(void* image, size_t at, PixelType type, float value) {
  switch (type) {
    case PixelType::kFloat32:
      static_cast<float*>(image)[at] = value;
      break;
    case PixelType::kFloat16:
      static_cast<uint16_t*>(image)[at] = static_cast<uint16_t>(pack_half2(value, 0));
      break;
    case PixelType::kBFloat16:
      static_cast<uint16_t*>(image)[at] = static_cast<uint16_t>(pack_bf162(value, 0));
      break;
    default:  // rounded to nearest even, clamped, NaN to 0
      static_cast<uint8_t*>(image)[at] =
          static_cast<uint8_t>(rintf(fminf(fmaxf(value * 255.0f, 0.0f), 255.0f)));
  }
}

// PixelShuffle, scaling and mean: outputs 8 tile to 8 tile + 15 of the convolution at those pixels.
template <int MT>
SM_DEVICE void write_shuffled(const UpsampleParams& p, const Pixels (&pixels)[MT],
                              const float (&acc)[MT][2][4], int tile) {
  const int s = p.scale;
  const size_t rows = (size_t)p.at.h * s, columns = (size_t)p.at.w * s;
  SM_UNROLL
  for (int k = 0; k < 2; ++k) SM_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int output = 8 * (tile + k) + 2 * (lane_id() % 4) + i;
    const int channel = output / (s * s), dy = output / s % s, dx = output % s;
    if (channel >= p.in_chans) continue;
    const float mean = __ldg(p.mean + channel);
    SM_UNROLL
    for (int m = 0; m < MT; ++m) SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (pixels[m].index[half] < 0) continue;
      const size_t y = (size_t)pixels[m].y[half] * s + dy, x = (size_t)pixels[m].x[half] * s + dx;
      const size_t plane = (size_t)blockIdx.y * p.in_chans + channel;
      write_pixel(p.out, (plane * rows + y) * columns + x, p.type, acc[m][k][2 * half + i] / p.range + mean);
    }
  }
}

template <class P, int NT>
SM_DEVICE void upsample_kernel(const UpsampleParams& p) {
  constexpr int MT = sizeof(typename P::Element) == 2 ? 2 : 1;
  SM_DYNAMIC_SHARED(shared_memory);
  auto* memory = reinterpret_cast<typename P::Element*>(shared_memory);
  const Tiling& at = p.at;
  const Place place = place_of(at, blockIdx.x);
  constexpr int stride = kTileStride<P, NT>;
  const int count = at.tile_h * at.tile_w;
  load_tile<P, NT>(memory, stride, at, place, p.in, nullptr);
  __syncthreads();
  for (int first = threadIdx.x / 32 * MT; first * 16 < count; first += kWarps * MT) {
    Pixels pixels[MT];
    tile_pixels(pixels, at, place, first);
    for (int tile = 0; tile < p.conv.tiles; tile += 2) {
      float acc[MT][2][4];
      convolve_tile<P, MT, 2, NT>(acc, memory, stride, at, p.conv, tile, first);
      write_shuffled(p, pixels, acc, tile);
    }
  }
}

}  // namespace cuda
}  // namespace seemore
