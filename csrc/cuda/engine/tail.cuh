// Tail: conv_2(LN x) + skip; then the upsampler's convolution, PixelShuffle, scaling and mean.
//
// Shared memory: the input of a 3x3 convolution with a border of 1; conv_2's result, before it is written.
#pragma once

#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

// A tile with a border of 1 for a 3x3 convolution, and the convolution of MT fragments below each other.
template <class P, int NT, int MT>
struct Staged {
  using Element = typename P::Element;
  using Chunk = typename P::Chunk;
  static constexpr int stride = kStride<P, NT>;

  const Tiling& at;
  const Region region;
  Element* memory;

  SM_DEVICE Staged(const Tiling& tiling, unsigned char* shared, const void* stream)
      : at(tiling), region(at, place_of(at), 1, longer<2>(at)), memory(reinterpret_cast<Element*>(shared)) {
    stage<P, NT>(memory, static_cast<const Element*>(stream) + image_start(at, blockIdx.z, 8 * NT), at,
                 region, padded() - region.count());
    __syncthreads();
  }

  static SM_DEVICE int warp() { return threadIdx.x / 32; }
  SM_DEVICE int padded() const {
    return round_to_fragment(((at.tile_h + MT - 1) / MT * MT + 2) * region.pitch);
  }
  // How many times MT rows of 16 pixels; the last rows may be beyond the tile.
  SM_DEVICE int columns() const { return (at.tile_h + MT - 1) / MT * at.tile_w / 16; }

  SM_DEVICE void normalise(const Norm& norm) {
    const float share = 1.0f / at.dim;
    float2 weight[NT], bias[NT];  // of the lane's channels
    SM_UNROLL
    for (int c = 0; c < NT; ++c) {
      const int channel = 8 * c + 2 * (lane_id() % 4);
      weight[c] = __ldg(reinterpret_cast<const float2*>(norm.weight + channel));
      bias[c] = __ldg(reinterpret_cast<const float2*>(norm.bias + channel));
    }
    for (int first = 16 * warp(); first < region.count(); first += 16 * warps()) {
      Chunk v[NT];
      P::template read<NT, stride>(v, memory + first * stride);
      P::normalise(v, at.dim, share, weight, bias);
      P::template write<NT, stride>(memory + first * stride, v);
    }
    __syncthreads();
    if (region.beyond_image(at)) {
      clear_beyond<P, NT>(memory, at, region);
      __syncthreads();
    }
  }

  // 8 OT outputs from part `pass` of the layer on, of the fragments below `first` of the tile.
  // Bias: of the type of sums.
  template <class Bias, int OT, class Acc>
  SM_DEVICE void convolve(Acc (&acc)[MT][OT], const Dense& layer, int pass, Place first) const {
    Bias bias;
    bias.fetch(found_here(layer.bias + 8 * OT * pass));
    P::begin(acc, bias);
    const int pitch = at.tile_w + 2, start = first.y * pitch + first.x;
    convolve3x3<P, NT>(
        acc, memory, [start](int row) { return start + row; }, [pitch](int) { return pitch; }, layer.weight,
        pass);
  }
  // Where in the tile column i begins.
  SM_DEVICE Place column(int i) const {
    const int log = log_width(at) - 4, band = i >> log;
    return {band * MT, (i - (band << log)) * 16};
  }
};

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ != 900 || defined(__CUDACC_RTC__))
constexpr int kMostTogether = 2;  // of six tiles of outputs: ptxas spills where it has to hold more
#else
constexpr int kMostTogether = 3;
#endif
template <class P, int NT, int OT>
constexpr int kUpsampleTogether =
    OT == 6 && upsample_together(NT, OT, sizeof(typename P::Element)) > kMostTogether
        ? kMostTogether
        : upsample_together(NT, OT, sizeof(typename P::Element));

template <class P, int NT>
constexpr int kConvTogether = conv_together(NT, sizeof(typename P::Element), kHalfSums<P>);

template <class P, int NT>
SM_DEVICE void conv_kernel(const ConvParams& p) {
  using Element = typename P::Element;
  constexpr int MT = kConvTogether<P, NT>, stride = kStride<P, NT>;
  SM_DYNAMIC_SHARED(shared_memory);
  const Tiling& at = p.at;
  Staged<P, NT, MT> tile(at, shared_memory, p.in);
  tile.normalise(p.norm);
  Element* result = tile.memory + tile.padded() * stride;
  for (int i = thread_found_here() / 32; i < tile.columns(); i += warps()) {
    const Place first = tile.column(found_here(i));
    typename P::Sum acc[MT][NT];
    tile.template convolve<typename P::template SumBias<NT>>(acc, p.conv, 0, first);
    SM_UNROLL
    for (int m = 0; m < MT; ++m) {
      if (first.y + m >= at.tile_h) break;
      typename P::Chunk v[NT];
      SM_UNROLL
      for (int n = 0; n < NT; ++n) v[n] = P::exact(acc[m][n]);
      P::template write<NT, stride>(result + ((first.y + m) * at.tile_w + first.x) * stride, v);
    }
  }
  __syncthreads();
  const size_t image = image_start(at, blockIdx.z, 8 * NT);
  copy_out<P, NT, true>(static_cast<Element*>(p.out) + image, static_cast<const Element*>(p.skip) + image,
                        result, at.tile_w, at, place_found_here(at));
}

SM_DEVICE unsigned byte_of(float value) {  // rounded to nearest even, clamped, NaN to 0
  return (unsigned)rintf(fminf(fmaxf(value * 255.0f, 0.0f), 255.0f));
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
    default:
      static_cast<uint8_t*>(image)[at] = static_cast<uint8_t>(byte_of(value));
  }
}

// Two neighbours, the first at an even place.
SM_DEVICE void write_pair(void* image, size_t at, PixelType type, float2 value) {
  switch (type) {
    case PixelType::kFloat32:
      *reinterpret_cast<float2*>(static_cast<float*>(image) + at) = value;
      break;
    case PixelType::kFloat16:
      *reinterpret_cast<unsigned*>(static_cast<uint16_t*>(image) + at) = pack_half2(value.x, value.y);
      break;
    case PixelType::kBFloat16:
      *reinterpret_cast<unsigned*>(static_cast<uint16_t*>(image) + at) = pack_bf162(value.x, value.y);
      break;
    default:
      *reinterpret_cast<uint16_t*>(static_cast<uint8_t*>(image) + at) =
          static_cast<uint16_t>(byte_of(value.x) | byte_of(value.y) << 8);
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
      const size_t plane = (size_t)blockIdx.z * p.in_chans + channel;
      write_pixel(p.out, (plane * rows + y) * columns + x, p.type, acc[m][k][2 * half + i] / p.range + mean);
    }
  }
}

// kScale: the scale, or 0 for any. OT: tiles of 8 outputs in a pass; they divide the layer's.
template <class P, int NT, int kScale, int OT>
SM_DEVICE void upsample_kernel(const UpsampleParams& p) {
  constexpr int MT = kUpsampleTogether<P, NT, OT>;
  SM_DYNAMIC_SHARED(shared_memory);
  const Tiling& at = p.at;
  const Staged<P, NT, MT> tile(at, shared_memory, p.in);
  const int s = kScale ? kScale : p.scale, g = lane_id() / 4;
  const size_t columns = (size_t)at.w * s, plane = (size_t)at.h * s * columns;
  for (int pass = 0; pass < p.conv.tiles / OT; ++pass)
    for (int i = threadIdx.x / 32; i < tile.columns(); i += warps()) {
      const Place first = tile.column(i);
      float acc[MT][OT][4];
      tile.template convolve<typename P::template Bias<OT>>(acc, p.conv, pass, first);
      const float factor = 1.0f / p.range;
      const Place place = place_found_here(at);
      const int rows = min(at.tile_h - first.y, at.h - place.y - first.y);
      SM_UNROLL
      for (int n = 0; n < OT; ++n) {
        const int output = 8 * (pass * OT + n) + 2 * (lane_id() % 4);
        // Of an even scale both outputs are neighbours.
        constexpr bool kPairs = kScale > 0 && kScale % 2 == 0;
        SM_UNROLL
        for (int j = 0; j < (kPairs ? 1 : 2); ++j) {
          const int channel = (output + j) / (s * s), dy = (output + j) / s % s, dx = (output + j) % s;
          if (channel >= p.in_chans) continue;
          const float mean = __ldg(p.mean + channel);
          const size_t start = ((size_t)blockIdx.z * p.in_chans + channel) * plane + dx;
          SM_UNROLL
          for (int m = 0; m < MT; ++m) {
            if (m >= rows) continue;
            const int y = place.y + first.y + m, x = place.x + first.x + g;
            const size_t line = start + ((size_t)y * s + dy) * columns;
            SM_UNROLL
            for (int half = 0; half < 2; ++half) {
              if (x + 8 * half >= at.w) continue;
              const float (&v)[4] = acc[m][n];
              const size_t to = line + (size_t)(x + 8 * half) * s;
              if (kPairs)
                write_pair(p.out, to, p.type,
                           make_float2(fmaf(v[2 * half], factor, mean), fmaf(v[2 * half + 1], factor, mean)));
              else
                write_pixel(p.out, to, p.type, fmaf(v[2 * half + j], factor, mean));
            }
          }
        }
      }
    }
}

}  // namespace cuda
}  // namespace seemore
