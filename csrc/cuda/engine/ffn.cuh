// The gated feed-forward with its LayerNorm and residual: y + GELU(out (a * gate g)), a and g halves of
// GELU(1x1).
//
// g is computed with a halo of 1 into shared memory, everything else of a pixel in the registers of one warp.
// With kMix its input is yp plus the chosen experts (mix.cuh), so that RME's output is never stored.
#pragma once

#include "cuda/engine/mix.cuh"

namespace seemore {
namespace cuda {

template <class P, int NT, int MT, bool kMix>
struct Ffn {
  using Element = typename P::Element;
  using Chunk = typename P::Chunk;
  static constexpr int kChannels = 8 * NT;
  static constexpr int stride = pixel_stride(kChannels, sizeof(Element));

  const FfnParams& p;
  const Tiling& at;
  const int warp, pitch;
  const Place place;
  Element* gated;  // shared memory: [th + 2, tw + 2], `stride` each
  const Element* in;
  Element* out;
  Mix<P, NT> mix;

  SM_DEVICE Ffn(const FfnParams& params, unsigned char* memory)
      : p(params),
        at(params.at),
        warp(threadIdx.x / 32),
        pitch(at.tile_w + 2),
        place(place_of(at, blockIdx.x)),
        gated(reinterpret_cast<Element*>(memory)),
        in(static_cast<const Element*>(p.in) + image_start(at, blockIdx.y, kChannels)),
        out(static_cast<Element*>(p.out) + image_start(at, blockIdx.y, kChannels)),
        mix(p.mix, at, reinterpret_cast<float*>(memory + p.mix_offset), reinterpret_cast<float*>(memory)) {}

  // The residual stream at these pixels.
  SM_DEVICE void load(float (&y)[MT][NT][4], const Pixels (&pixels)[MT]) const {
    SM_UNROLL
    for (int m = 0; m < MT; ++m) load_pixels<P>(y[m], in, pixels[m]);
    if constexpr (kMix) mix.add_experts(y, pixels);
  }

  // GELU(layer LN y).
  SM_DEVICE void first_layer(float (&v)[MT][NT][4], const Dense& layer) const {
    Chunk a[MT][NT];
    SM_UNROLL
    for (int m = 0; m < MT; ++m) {
      normalise(v[m], at.dim);
      pack_all<P>(a[m], v[m]);
    }
    dense<P, MT, NT, NT>(v, a, layer);
    gelu_all(v);
  }

  SM_DEVICE void compute_g() {
    const int count = (at.tile_h + 2) * pitch;
    for (int first = warp * MT; first * 16 < count; first += kWarps * MT) {
      Pixels pixels[MT];
      SM_UNROLL
      for (int m = 0; m < MT; ++m)
        pixels[m] = pixels_of(at, [&](int row, int& y, int& x) {
          const int i = (first + m) * 16 + row;
          y = place.y - 1 + i / pitch;
          x = place.x - 1 + i % pitch;
          return i < count;
        });
      float v[MT][NT][4];
      load(v, pixels);
      first_layer(v, p.g);
      SM_UNROLL
      for (int m = 0; m < MT; ++m)
        store_shared<P>(gated, stride, v[m], pixels[m], [&](int row) {
          const int i = (first + m) * 16 + row;
          return i < count ? i : -1;
        });
    }
  }

  // a *= depthwise 3x3 of g. slot: the lane's pixels' upper left neighbours in `gated`.
  SM_DEVICE void gate(float (&a)[NT][4], const int (&slot)[2]) const {
    SM_UNROLL
    for (int k = 0; k < NT; ++k) {
      const int channel = 8 * k + 2 * (lane_id() % 4);
      float2 sum[2];
      sum[0] = sum[1] = pair_of(p.gate.bias, k);
      SM_NO_UNROLL  // all taps' loads at once would not fit the registers
          for (int dy = 0; dy < 3; ++dy) SM_UNROLL for (int dx = 0; dx < 3; ++dx) {
        const float2 w = pair_of(p.gate.weight + (3 * dy + dx) * kChannels, k);
        SM_UNROLL
        for (int half = 0; half < 2; ++half) {
          const float2 v = P::load_pair(gated + (slot[half] + dy * pitch + dx) * stride + channel);
          sum[half].x = fmaf(w.x, v.x, sum[half].x);
          sum[half].y = fmaf(w.y, v.y, sum[half].y);
        }
      }
      SM_UNROLL
      for (int half = 0; half < 2; ++half) a[k][2 * half] *= sum[half].x, a[k][2 * half + 1] *= sum[half].y;
    }
  }

  SM_DEVICE void finish() {
    const int count = at.tile_h * at.tile_w;
    for (int first = warp * MT; first * 16 < count; first += kWarps * MT) {
      Pixels pixels[MT];
      float y[MT][NT][4], v[MT][NT][4];
      SM_UNROLL
      for (int m = 0; m < MT; ++m)
        pixels[m] = pixels_of(at, [&](int row, int& py, int& px) {
          const int i = (first + m) * 16 + row;
          py = place.y + i / at.tile_w;
          px = place.x + i % at.tile_w;
          return i < count;
        });
      load(y, pixels);
      SM_UNROLL
      for (int m = 0; m < MT; ++m) SM_UNROLL
      for (int k = 0; k < NT; ++k) SM_UNROLL
      for (int i = 0; i < 4; ++i) v[m][k][i] = y[m][k][i];
      first_layer(v, p.a);
      Chunk a[MT][NT];
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        int slot[2];
        SM_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int i = min((first + m) * 16 + lane_id() / 4 + 8 * half, count - 1);
          slot[half] = i / at.tile_w * pitch + i % at.tile_w;
        }
        gate(v[m], slot);
        pack_all<P>(a[m], v[m]);
      }
      dense<P, MT, NT, NT>(v, a, p.out_weight);
      gelu_all(v);
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        add(y[m], v[m]);
        store_pixels<P>(out, kChannels, pixels[m], y[m]);
      }
    }
  }

  SM_DEVICE void run() {
    if constexpr (kMix) mix.prepare(place);
    compute_g();
    __syncthreads();
    finish();
  }
};

template <class P, int NT, bool kMix>
SM_DEVICE void ffn_kernel(const FfnParams& p) {
  SM_DYNAMIC_SHARED(memory);
  Ffn<P, NT, 1, kMix>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
