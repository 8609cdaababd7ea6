// RME up to the pooling barrier: LN, conv 3x3, GELU, the x and k halves, stripes of 3, the projections that
// the second half needs, the first aggregation, and the router's logits of the block's pixels.
//
// Shared memory: normalised input with halo 2 (later the sums of x), x with halo 1, k.
#pragma once

#include "cuda/engine/stripes.cuh"

namespace seemore {
namespace cuda {

template <class P, int NT, int MT>
struct Rme {
  using Element = typename P::Element;
  using Chunk = typename P::Chunk;
  static constexpr int kChannels = 8 * NT;
  static constexpr int stride = pixel_stride(kChannels, sizeof(Element));

  const RmeParams& p;
  const Tiling& at;
  const int n, warp, wide, mid;  // image; pixels to a row with halo 2 and 1
  Element *normal, *x, *k;       // [th + 4, tw + 4], [th + 2, tw + 2], [th, tw], `stride` each
  float* sums;                   // [tw, CP], over `normal`
  const Element* in;
  float logit = 0;  // of expert threadIdx.x

  SM_DEVICE Rme(const RmeParams& params, unsigned char* memory)
      : p(params),
        at(params.at),
        n(blockIdx.y),
        warp(threadIdx.x / 32),
        wide(at.tile_w + 4),
        mid(at.tile_w + 2) {
    normal = reinterpret_cast<Element*>(memory);
    x = normal + (at.tile_h + 4) * wide * stride;
    k = x + (at.tile_h + 2) * mid * stride;
    sums = reinterpret_cast<float*>(memory);
    in = static_cast<const Element*>(p.in) + image_start(at, n, kChannels);
  }

  SM_DEVICE void normalise_input(Place place) {
    const int count = (at.tile_h + 4) * wide;
    for (int tile = warp; tile * 16 < count; tile += kWarps) {
      const Pixels pixels = pixels_of(at, [&](int row, int& y, int& px) {
        const int i = tile * 16 + row;
        y = place.y - 2 + i / wide;
        px = place.x - 2 + i % wide;
        return i < count;
      });
      float v[NT][4];
      load_pixels<P>(v, in, pixels);
      normalise(v, at.dim);
      apply(p.norm, v);
      store_shared<P>(normal, stride, v, pixels, [&](int row) {
        const int i = tile * 16 + row;
        return i < count ? i : -1;
      });
    }
  }

  // t = GELU(conv); x = to_x t and k = to_k t into shared memory, C k to where the second half reads it.
  SM_DEVICE void convolve(Place place) {
    const int count = (at.tile_h + 2) * mid;
    auto* out = static_cast<Element*>(p.c) + image_start(at, n, 8 * p.expert_c.tiles);
    for (int first = warp * MT; first * 16 < count; first += kWarps * MT) {
      float acc[MT][NT][4];
      conv3x3<P, MT, NT, NT>(acc, normal, stride, wide, p.conv, 0, [&](int m, int row) {
        const int i = min((first + m) * 16 + row, count - 1);
        return i / mid * wide + i % mid;
      });
      gelu_all(acc);
      Chunk t[MT][NT];
      SM_UNROLL
      for (int m = 0; m < MT; ++m) pack_all<P>(t[m], acc[m]);

      dense<P, MT, NT, NT>(acc, t, p.to_x);
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        const int base = (first + m) * 16;
        const Pixels pixels = pixels_of(at, [&](int row, int& y, int& px) {
          y = place.y - 1 + (base + row) / mid;
          px = place.x - 1 + (base + row) % mid;
          return true;
        });
        store_shared<P>(x, stride, acc[m], pixels,
                        [&](int row) { return base + row < count ? base + row : -1; });
      }

      dense<P, MT, NT, NT>(acc, t, p.to_k);
      Pixels pixels[MT];
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        auto slot = [&](int row) {  // within the tile
          const int i = (first + m) * 16 + row, y = i / mid - 1, px = i % mid - 1;
          return y >= 0 && y < at.tile_h && px >= 0 && px < at.tile_w ? y * at.tile_w + px : -1;
        };
        pixels[m] = pixels_of(at, [&](int row, int& y, int& px) {
          const int i = slot(row);
          y = place.y + i / at.tile_w;
          px = place.x + i % at.tile_w;
          return i >= 0;
        });
        store_shared<P>(k, stride, acc[m], pixels[m], slot);
        pack_all<P>(t[m], acc[m]);
      }
      store_ranks(out, pixels, t, p.expert_c);
    }
  }

  // The experts' rows of a matrix, 16 at a time.
  SM_DEVICE void store_ranks(Element* out, const Pixels (&pixels)[MT], const Chunk (&a)[MT][NT],
                             const Dense& layer) {
    for (int tile = 0; tile < layer.tiles; tile += 2) {
      float acc[MT][2][4];
      dense<P, MT, 2, NT>(acc, a, layer, tile);
      SM_UNROLL
      for (int m = 0; m < MT; ++m) store_pixels<P>(out + 8 * tile, 8 * layer.tiles, pixels[m], acc[m]);
    }
  }

  // The first aggregation of k: tiles are aligned to it.
  SM_DEVICE void aggregate(Place place) {
    const int rows = at.tile_h / 4, columns = at.tile_w / 4;
    for (int task = threadIdx.x; task < rows * columns * kChannels / 2; task += kThreads) {
      const int pair = task % (kChannels / 2), i = task / (kChannels / 2), r = i / columns, c = i % columns;
      const int y = place.y / 4 + r, px = place.x / 4 + c;
      if (y >= p.low_h || px >= p.low_w) continue;
      float2 acc = __ldg(reinterpret_cast<const float2*>(p.aggregate.bias + 2 * pair));
      for (int tap = 0; tap < 16; ++tap) {
        const int from = (4 * r + tap / 4) * at.tile_w + 4 * c + tap % 4;
        const float2 v = P::load_pair(k + from * stride + 2 * pair);
        const float2 w =
            __ldg(reinterpret_cast<const float2*>(p.aggregate.weight + tap * kChannels + 2 * pair));
        acc.x = fmaf(w.x, v.x, acc.x);
        acc.y = fmaf(w.y, v.y, acc.y);
      }
      float* out = p.low + (((size_t)n * p.low_h + y) * p.low_w + px) * kChannels + 2 * pair;
      *reinterpret_cast<float2*>(out) = make_float2(gelu(acc.x), gelu(acc.y));
    }
  }

  // x = GELU(stripes x) in place, and the sum of each column of it.
  SM_DEVICE void stripes(Place place) {
    const Region<P> region = {x, mid, stride, place.y - 1, place.x - 1};
    horizontal_pass<P, 3>(region, at.tile_h + 2, at.tile_w, kChannels / 2, 0, p.stripe_h, kChannels, 3, at.h);
    __syncthreads();
    // One column and pair of channels to a thread: its sum grows in registers.
    for (int task = threadIdx.x; task < at.tile_w * kChannels / 2; task += kThreads) {
      const int pair = task % (kChannels / 2), column = task / (kChannels / 2);
      float2 sum = make_float2(0, 0);
      const float2 bias = __ldg(reinterpret_cast<const float2*>(p.stripe_v.bias + 2 * pair));
      Element* line = x + column * stride + 2 * pair;
      filter_line<P, 3>(line, mid * stride, at.tile_h, p.stripe_v.weight + 2 * pair, kChannels, bias, 3,
                        [&](int row, float2 value) {
                          value = make_float2(gelu(value.x), gelu(value.y));
                          P::store_pair(line + row * mid * stride, value);
                          if (!inside(at, place.y + row, place.x + column)) return;
                          sum.x += value.x;
                          sum.y += value.y;
                        });
      *reinterpret_cast<float2*>(sums + column * kChannels + 2 * pair) = sum;
    }
    __syncthreads();
  }

  // yp = in + proj x and B x.
  SM_DEVICE void project(Place place) {
    const int count = at.tile_h * at.tile_w;
    auto* yp = static_cast<Element*>(p.yp) + image_start(at, n, kChannels);
    auto* b = static_cast<Element*>(p.b) + image_start(at, n, 8 * p.expert_b.tiles);
    for (int first = warp * MT; first * 16 < count; first += kWarps * MT) {
      Chunk a[MT][NT];
      float acc[MT][NT][4];
      Pixels pixels[MT];
      SM_UNROLL
      for (int m = 0; m < MT; ++m)
        P::template load<NT>(a[m], x, stride, [&](int row) {
          const int i = min((first + m) * 16 + row, count - 1);
          return i / at.tile_w * mid + i % at.tile_w;
        });
      dense<P, MT, NT, NT>(acc, a, p.proj);
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        pixels[m] = pixels_of(at, [&](int row, int& y, int& px) {
          const int i = (first + m) * 16 + row;
          y = place.y + i / at.tile_w;
          px = place.x + i % at.tile_w;
          return i < count;
        });
        float residual[NT][4];
        load_pixels<P>(residual, in, pixels[m]);
        add(acc[m], residual);
        store_pixels<P>(yp, kChannels, pixels[m], acc[m]);
      }
      store_ranks(b, pixels, a, p.expert_b);
    }
  }

  // Adds the tile's part of the logits.
  SM_DEVICE void route() {
    for (int channel = threadIdx.x; channel < kChannels; channel += kThreads) {
      float sum = 0;
      for (int column = 0; column < at.tile_w; ++column) sum += sums[column * kChannels + channel];
      sums[channel] = sum;
    }
    __syncthreads();
    if ((int)threadIdx.x < p.experts)
      for (int channel = 0; channel < kChannels; ++channel)
        logit = fmaf(__ldg(p.router + threadIdx.x * kChannels + channel), sums[channel], logit);
  }

  SM_DEVICE void run() {
    for (int tile = blockIdx.x; tile < at.count; tile += (int)gridDim.x) {
      const Place place = place_of(at, tile);
      normalise_input(place);
      __syncthreads();
      convolve(place);
      __syncthreads();
      aggregate(place);
      stripes(place);
      project(place);
      route();
      __syncthreads();
    }
    if ((int)threadIdx.x < p.experts)
      p.partial[((size_t)n * gridDim.x + blockIdx.x) * p.experts + threadIdx.x] = logit;
  }
};

// In 16 bit, pairs of fragments share the weights they load. ptxas fits two blocks of that for sm_90 alone;
// for the others it would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
template <class P, int NT>
constexpr int kBlocksOfRme = 1;
#else
template <class P, int NT>
constexpr int kBlocksOfRme = kBlocksOfDense<P, NT>;
#endif

template <class P, int NT>
SM_DEVICE void rme_kernel(const RmeParams& p) {
  SM_DYNAMIC_SHARED(memory);
  Rme<P, NT, sizeof(typename P::Element) == 2 ? 2 : 1>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
