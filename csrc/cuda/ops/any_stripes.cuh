// striped_conv2d with stripes of any number of taps: a tile of 32 x 32 pixels has a region of side 32 + taps
// - 1 around it, zero outside the image.
#pragma once

#include "cuda/ops/stripes.h"

namespace seemore {
namespace cuda {
namespace {

constexpr int kAnyMidPitch = kAnySide + 1;
constexpr int kAnyRun = 4;  // neighbouring outputs of a thread

struct AnyTile {
  int side, pitch;  // of the region; an odd pitch, so that lanes on neighbouring rows use different banks
  int y, x;         // of the region's first pixel, in the image
};

SM_DEVICE AnyTile tile_of(const StripesParams& p, int tile) {
  const int across = (p.w + kAnySide - 1) / kAnySide, side = kAnySide + p.taps - 1, pad = p.taps / 2;
  return {side, side + 1, tile / across * kAnySide - pad, tile % across * kAnySide - pad};
}

SM_DEVICE int tiles_of(const StripesParams& p) {
  return ((p.w + kAnySide - 1) / kAnySide) * ((p.h + kAnySide - 1) / kAnySide);
}

template <class T>
SM_DEVICE void load_region(const StripesParams& p, const AnyTile& at, const typename T::Element* plane,
                           float* to) {
  for (int r = warp_id(); r < at.side; r += kWarps)
    for (int c = lane_id(); c < at.side; c += 32) {
      const int y = at.y + r, x = at.x + c;
      const bool inside = y >= 0 && y < p.h && x >= 0 && x < p.w;
      to[r * at.pitch + c] = inside ? T::load(plane + (size_t)y * p.w + x) : 0.0f;
    }
}

// out[o] = bias + sum over j of weight[j step_w] line[(o + j) step].
SM_DEVICE void filter_run(float (&out)[kAnyRun], const float* line, int step, const float* weight, int step_w,
                          int taps, float bias) {
  float window[kAnyRun];
  SM_UNROLL
  for (int o = 0; o < kAnyRun; ++o) out[o] = bias;
  SM_UNROLL
  for (int o = 0; o + 1 < kAnyRun; ++o) window[o] = line[o * step];
  for (int j = 0; j < taps; ++j) {
    const float w = __ldg(weight + j * step_w);
    window[kAnyRun - 1] = line[(j + kAnyRun - 1) * step];
    SM_UNROLL
    for (int o = 0; o < kAnyRun; ++o) out[o] = fmaf(w, window[o], out[o]);
    SM_UNROLL
    for (int o = 0; o + 1 < kAnyRun; ++o) window[o] = window[o + 1];
  }
}

// x's region -> the first stripe's result, [side, 32]; zero in rows outside the image, as the second pads it.
SM_DEVICE void first_stripe(const StripesParams& p, const AnyTile& at, int c, const float* region,
                            float* mid) {
  const float* weight = p.weight_h + c * p.taps;
  for (int task = threadIdx.x; task < at.side * (kAnySide / kAnyRun); task += kThreads) {
    const int row = task % at.side, column = task / at.side * kAnyRun, y = at.y + row;
    float out[kAnyRun];
    filter_run(out, region + row * at.pitch + column, 1, weight, 1, p.taps, __ldg(p.bias_h + c));
    SM_UNROLL
    for (int o = 0; o < kAnyRun; ++o)
      mid[row * kAnyMidPitch + column + o] = y >= 0 && y < p.h ? out[o] : 0.0f;
  }
}

template <class T>
SM_DEVICE void any_stripes_kernel(const StripesParams& p) {
  using Element = typename T::Element;
  SM_DYNAMIC_SHARED(shared);
  const int share = blockIdx.x % p.shares, plane = blockIdx.x / p.shares, c = plane % p.channels;
  const size_t offset = (size_t)plane * p.h * p.w;
  for (int tile = share; tile < tiles_of(p); tile += p.shares) {
    const AnyTile at = tile_of(p, tile);
    float *region = reinterpret_cast<float*>(shared), *mid = region + at.side * at.pitch;
    load_region<T>(p, at, static_cast<const Element*>(p.x) + offset, region);
    __syncthreads();
    first_stripe(p, at, c, region, mid);
    __syncthreads();
    const int column = lane_id(), row = warp_id() * kAnyRun, pad = p.taps / 2;
    float out[kAnyRun];
    filter_run(out, mid + row * kAnyMidPitch + column, kAnyMidPitch, p.weight_v + c * p.taps, 1, p.taps,
               __ldg(p.bias_v + c));
    SM_UNROLL
    for (int o = 0; o < kAnyRun; ++o) {
      const int y = at.y + pad + row + o, x = at.x + pad + column;
      if (y >= p.h || x >= p.w) continue;
      const size_t pixel = offset + (size_t)y * p.w + x;
      float value = out[o];
      if (p.grad)
        value = T::load(static_cast<const Element*>(p.grad) + pixel) * gelu_slope(value);
      else if (p.gelu)
        value = gelu(value);
      T::store(static_cast<Element*>(p.out) + pixel, value);
    }
    __syncthreads();  // before the next tile's region
  }
}

template <class T>
SM_DEVICE void any_stripes_backward_kernel(const StripesParams& p) {
  using Element = typename T::Element;
  SM_DYNAMIC_SHARED(shared);
  const int share = blockIdx.x % p.shares, plane = blockIdx.x / p.shares, c = plane % p.channels;
  const int taps = p.taps, pad = taps / 2, last = taps - 1;
  const size_t offset = (size_t)plane * p.h * p.w;
  const float *weight_h = p.weight_h + c * taps, *weight_v = p.weight_v + c * taps;
  const size_t place = ((size_t)(plane / p.channels) * p.shares + share) * p.channels + c;
  for (int tile = share; tile < tiles_of(p); tile += p.shares) {
    const AnyTile at = tile_of(p, tile);
    float* x = reinterpret_cast<float*>(shared);  // [side, pitch]
    float* mid = x + at.side * at.pitch;          // [side, 33]: the first stripe's result
    float* grad = mid + at.side * kAnyMidPitch;   // [side, pitch]
    float* slope = grad + at.side * at.pitch;     // [32, pitch]: gradient of the first stripe's result
    load_region<T>(p, at, static_cast<const Element*>(p.x) + offset, x);
    load_region<T>(p, at, static_cast<const Element*>(p.grad) + offset, grad);
    __syncthreads();
    first_stripe(p, at, c, x, mid);
    for (int task = threadIdx.x; task < at.side * (kAnySide / kAnyRun); task += kThreads) {
      const int column = task % at.side, row = task / at.side * kAnyRun;
      float out[kAnyRun];
      filter_run(out, grad + row * at.pitch + column, at.pitch, weight_v + last, -1, taps, 0);
      SM_UNROLL
      for (int o = 0; o < kAnyRun; ++o)
        slope[(row + o) * at.pitch + column] = at.y + pad + row + o < p.h ? out[o] : 0.0f;
    }
    __syncthreads();
    const int lane = lane_id();
    if (p.out) {
      const int row = warp_id() * kAnyRun, to = at.x + pad + lane;
      float out[kAnyRun] = {};
      for (int j = 0; j < taps; ++j) {
        const float w = __ldg(weight_h + last - j);
        SM_UNROLL
        for (int o = 0; o < kAnyRun; ++o) out[o] = fmaf(w, slope[(row + o) * at.pitch + lane + j], out[o]);
      }
      SM_UNROLL
      for (int o = 0; o < kAnyRun; ++o) {
        const int y = at.y + pad + row + o;
        if (y < p.h && to < p.w)
          T::store(static_cast<Element*>(p.out) + offset + (size_t)y * p.w + to, out[o]);
      }
    }
    if (p.partial) {
      const float *inner_slope = slope + pad + lane, *inner_grad = grad + pad * at.pitch + pad + lane;
      for (int what = warp_id(); what < 2 * taps + 2; what += kWarps) {
        float sum = 0;
        for (int row = 0; row < kAnySide; ++row) {
          const float s = inner_slope[row * at.pitch], g = inner_grad[row * at.pitch];
          if (what < taps)
            sum = fmaf(s, x[(row + pad) * at.pitch + lane + what], sum);
          else if (what < 2 * taps)
            sum = fmaf(g, mid[(row + what - taps) * kAnyMidPitch + lane], sum);
          else
            sum += what == 2 * taps ? s : g;
        }
        sum = warp_sum(sum);
        if (lane == 0) {
          float* const to = p.partial + place * (2 * taps + 2) + what;
          *to = tile == share ? sum : *to + sum;
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace cuda
}  // namespace seemore
