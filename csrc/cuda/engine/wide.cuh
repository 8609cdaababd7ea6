// Networks of more channels than the registers of a warp hold (beyond kWidths), or of stripes too long for
// shared memory: one stage to a kernel, through global memory, in loops over channels whose number is known
// at run time.
//
// The depthwise convolution also serves narrow networks, for levels of aggregation between others.
#pragma once

#include "cuda/engine/mix.cuh"
#include "cuda/engine/tail.cuh"

namespace seemore {
namespace cuda {

// LN. A warp computes a pixel.
template <class P>
SM_DEVICE void normalise_kernel(const NormaliseParams& p) {
  const size_t pixel = (size_t)blockIdx.x * kWarps + threadIdx.x / 32;
  if (pixel >= (size_t)p.at.h * p.at.w) return;
  const size_t start = image_start(p.at, blockIdx.z, p.channels) + pixel * p.channels;
  const auto* in = static_cast<const typename P::Element*>(p.in) + start;
  auto* out = static_cast<typename P::Element*>(p.out) + start;
  float sum = 0;
  for (int c = 2 * lane_id(); c < p.channels; c += 64) {
    const float2 v = P::load_pair(in + c);
    sum += v.x + v.y;
  }
  const float mean = warp_sum(sum) / p.at.dim;
  auto centred = [&](int c) {
    const float2 v = P::load_pair(in + c);
    return make_float2(c < p.at.dim ? v.x - mean : 0.0f, c + 1 < p.at.dim ? v.y - mean : 0.0f);
  };
  float squares = 0;
  for (int c = 2 * lane_id(); c < p.channels; c += 64) {
    const float2 v = centred(c);
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, squares));
  }
  const float scale = rsqrtf(warp_sum(squares) / p.at.dim + 1e-6f);
  for (int c = 2 * lane_id(); c < p.channels; c += 64) {
    float2 v = centred(c);
    v.x *= scale, v.y *= scale;
    if (p.norm.weight) {
      v.x = fmaf(v.x, __ldg(p.norm.weight + c), __ldg(p.norm.bias + c));
      v.y = fmaf(v.y, __ldg(p.norm.weight + c + 1), __ldg(p.norm.bias + c + 1));
    }
    P::store_pair(out + c, v);
  }
}

// The same pixels, (dy, dx) further on.
SM_DEVICE Pixels moved(const Tiling& at, const Pixels& from, int dy, int dx) {
  Pixels to;
  SM_UNROLL
  for (int half = 0; half < 2; ++half) {
    to.y[half] = from.y[half] + dy;
    to.x[half] = from.x[half] + dx;
    const bool there = from.index[half] >= 0 && inside(at, to.y[half], to.x[half]);
    to.index[half] = there ? (long long)to.y[half] * at.w + to.x[half] : -1;
  }
  return to;
}

// A dense layer of 1 or 9 taps. A warp computes 16 outputs of 16 kTogether pixels, and hands them to
// finish(pixels, acc, the first of the two tiles of outputs).
template <class P, class Finish>
SM_DEVICE void product(const Tiling& at, const void* in, int channels, int taps, const Dense& layer,
                       Finish finish) {
  // Warps that read the same pixels are neighbours.
  const size_t task = (size_t)blockIdx.x * kWarps + threadIdx.x / 32;
  const int tile = 2 * (int)(task % (layer.tiles / 2));
  const long long first = (long long)(task / (layer.tiles / 2)) * 16 * kTogether;
  if (first >= (long long)at.h * at.w) return;
  Pixels pixels[kTogether];
  SM_UNROLL
  for (int m = 0; m < kTogether; ++m)
    pixels[m] = pixels_of(at, [&](int row, int& y, int& x) {
      y = (int)((first + 16 * m + row) / at.w);
      x = (int)((first + 16 * m + row) % at.w);
      return true;
    });
  const auto* image = static_cast<const typename P::Element*>(in) + image_start(at, blockIdx.z, channels);
  float acc[kTogether][2][4];
  start(acc, layer, tile);
  for (int tap = 0; tap < taps; ++tap) {
    Pixels near[kTogether];
    SM_UNROLL
    for (int m = 0; m < kTogether; ++m)
      near[m] = taps == 1 ? pixels[m] : moved(at, pixels[m], tap / 3 - 1, tap % 3 - 1);
    for (int c = 0; c < channels; c += 16) {
      typename P::Chunk a[kTogether][2];
      SM_UNROLL
      for (int m = 0; m < kTogether; ++m) {
        float v[2][4];
        load_pixels<P>(v, image + c, near[m], channels);
        pack_all<P>(a[m], v);
      }
      P::template multiply<kTogether, 2, 2>(acc, a, weights_of<P, 2>(layer, (tap * channels + c) / 16),
                                            layer.tiles, tile);
    }
  }
  finish(pixels, acc, tile);
}

template <class P>
SM_DEVICE void product_kernel(const ProductParams& p) {
  using Element = typename P::Element;
  Dense layer = p.layer;
  layer.bias += (size_t)blockIdx.z * p.bias_step;
  const int outputs = 8 * layer.tiles;
  const size_t image = image_start(p.at, blockIdx.z, outputs);
  product<P>(p.at, p.in, p.channels, p.taps, layer, [&](auto& pixels, auto& acc, int tile) {
    if (p.gelu) gelu_all(acc);
    SM_UNROLL
    for (int m = 0; m < kTogether; ++m) {
      if (p.residual) {
        float residual[2][4];
        load_pixels<P>(residual, static_cast<const Element*>(p.residual) + image + 8 * tile, pixels[m],
                       outputs);
        add(acc[m], residual);
      }
      store_pixels<P>(static_cast<Element*>(p.out) + image + 8 * tile, outputs, pixels[m], acc[m]);
    }
  });
}

template <class P>
SM_DEVICE void upsample_wide_kernel(const UpsampleParams& p) {
  product<P>(p.at, p.in, p.channels, 9, p.conv,
             [&](auto& pixels, auto& acc, int tile) { write_shuffled(p, pixels, acc, tile); });
}

// A depthwise convolution of any size. A thread computes a pair of channels of a pixel.
template <class From, class To>
SM_DEVICE void filter_kernel(const FilterParams& p) {
  const size_t task = (size_t)blockIdx.x * kThreads + threadIdx.x, pixel = task / (p.channels / 2);
  if (pixel >= (size_t)p.out_h * p.out_w) return;
  const int c = 2 * (int)(task % (p.channels / 2));
  const int top = (int)(pixel / p.out_w) * p.stride - p.top,
            left = (int)(pixel % p.out_w) * p.stride - p.left;
  const auto* in = static_cast<const typename From::Element*>(p.in) +
                   (size_t)blockIdx.z * p.in_h * p.in_w * p.channels + c;
  float2 sum = __ldg(reinterpret_cast<const float2*>(p.conv.bias + c));
  for (int i = 0; i < p.rows; ++i)
    for (int j = 0; j < p.columns; ++j) {
      const int y = top + i, x = left + j;
      if (y < 0 || y >= p.in_h || x < 0 || x >= p.in_w) continue;
      const float2 v = From::load_pair(in + ((size_t)y * p.in_w + x) * p.channels);
      const float2 w =
          __ldg(reinterpret_cast<const float2*>(p.conv.weight + (i * p.columns + j) * p.channels + c));
      sum.x = fmaf(w.x, v.x, sum.x);
      sum.y = fmaf(w.y, v.y, sum.y);
    }
  if (p.gelu) sum = make_float2(gelu(sum.x), gelu(sum.y));
  const size_t at = ((size_t)blockIdx.z * p.out_h * p.out_w + pixel) * p.channels + c;
  if (p.times) {
    const float2 v = To::load_pair(static_cast<const typename To::Element*>(p.times) + at);
    sum.x *= v.x, sum.y *= v.y;
  }
  To::store_pair(static_cast<typename To::Element*>(p.out) + at, sum);
}

// Router logits of the block's tile. Shared memory: [CP], sums of the channels.
template <class P>
SM_DEVICE void logits_kernel(const LogitsParams& p) {
  SM_DYNAMIC_SHARED(memory);
  auto* sums = reinterpret_cast<float*>(memory);
  const Place place = place_of(p.at);
  const int bottom = min(place.y + p.at.tile_h, p.at.h), right = min(place.x + p.at.tile_w, p.at.w);
  const auto* in = static_cast<const typename P::Element*>(p.in) + image_start(p.at, blockIdx.z, p.channels);
  for (int c = 2 * (int)threadIdx.x; c < p.channels; c += 2 * kThreads) {
    double first = 0, second = 0;  // of a thousand pixels
    for (int y = place.y; y < bottom; ++y)
      for (int x = place.x; x < right; ++x) {
        const float2 v = P::load_pair(in + ((size_t)y * p.at.w + x) * p.channels + c);
        first += v.x;
        second += v.y;
      }
    sums[c] = (float)first;
    sums[c + 1] = (float)second;
  }
  __syncthreads();
  const int expert = threadIdx.x;
  if (expert >= p.experts) return;
  float logit = 0;
  for (int c = 0; c < p.channels; ++c)
    logit = fmaf(__ldg(p.router + (size_t)expert * p.channels + c), sums[c], logit);
  const size_t tile = tile_number({blockIdx.x, blockIdx.y});
  p.partial[tile * p.experts + expert] = logit;
}

// Routing: one block to an image. Shared memory: [experts].
template <class P>
SM_DEVICE void route_images_kernel(const WideMixParams& p) {
  SM_DYNAMIC_SHARED(memory);
  auto* logits = reinterpret_cast<float*>(memory);
  const int n = blockIdx.z;
  sum_logits(p.mix, p.at, n, logits);
  __syncthreads();
  if (threadIdx.x == 0) choose(p.mix, logits);
  __syncthreads();
  weigh(p.mix, logits, p.channels, p.weight + (size_t)n * p.mix.ranks, p.bias + (size_t)n * p.channels);
}

// The coarse map. A thread computes one row of a pixel.
template <class P>
SM_DEVICE void project_low_kernel(const WideMixParams& p) {
  const size_t task = (size_t)blockIdx.x * kThreads + threadIdx.x, pixels = (size_t)p.mix.map_h * p.mix.map_w;
  const size_t pixel = task / p.mix.ranks;
  if (pixel >= pixels) return;
  p.map[blockIdx.z * pixels * p.mix.ranks + task] = project_low(
      p.mix, p.mixed + (blockIdx.z * pixels + pixel) * p.channels, p.channels, (int)(task % p.mix.ranks));
}

// What the experts multiply. A thread computes two rows of a pixel.
template <class P>
SM_DEVICE void expert_products_kernel(const WideMixParams& p) {
  using Element = typename P::Element;
  const MixParams& mix = p.mix;
  const size_t task = (size_t)blockIdx.x * kThreads + threadIdx.x, pixel = task / (mix.ranks / 2);
  if (pixel >= (size_t)p.at.h * p.at.w) return;
  const int rank = 2 * (int)(task % (mix.ranks / 2));
  const size_t at = image_start(p.at, blockIdx.z, mix.ranks) + pixel * mix.ranks + rank;
  const float2 b = P::load_pair(static_cast<const Element*>(mix.b) + at);
  const float2 c = P::load_pair(static_cast<const Element*>(mix.c) + at);
  const Tap y = tap_of((int)(pixel / p.at.w) + mix.top, mix.map_h, mix.full_h);
  const Tap x = tap_of((int)(pixel % p.at.w) + mix.left, mix.map_w, mix.full_w);
  const float* row = p.map + ((size_t)blockIdx.z * mix.map_h + y.near) * mix.map_w * mix.ranks;
  const float2 up = resized(row, {y.near, 0}, mix.map_w, mix.ranks, y, x, rank);
  P::store_pair(static_cast<Element*>(p.z) + at,
                expert_rows(b, c, up, p.weight + (size_t)blockIdx.z * mix.ranks + rank));
}

}  // namespace cuda
}  // namespace seemore
