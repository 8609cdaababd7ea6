// Depthwise 1 x k and k x 1 convolutions along lines of shared memory, a pair of channels to a thread.
#pragma once

#include "cuda/engine/tile.cuh"

namespace seemore {
namespace cuda {

constexpr int kAtOnce = 8;  // outputs that a thread computes from values in registers

// `count` (a multiple of kAtOnce) outputs of one line: out(i, sum over j of w[j] in(i + j) + bias), in(i)
// read from line + i * step before out(i) is called, so that out may write over it. K: the kernel, or 0 for
// any.
template <class P, int K, class Out>
SM_DEVICE void filter_line(const typename P::Element* line, int step, int count, const float* weight,
                           int channels, float2 bias, int kernel, Out out) {
  if constexpr (K > 0) {
    float2 w[K];
    SM_UNROLL
    for (int j = 0; j < K; ++j) w[j] = __ldg(reinterpret_cast<const float2*>(weight + j * channels));
    for (int i = 0; i < count; i += kAtOnce) {
      float2 acc[kAtOnce];
      SM_UNROLL
      for (int o = 0; o < kAtOnce; ++o) acc[o] = bias;
      SM_UNROLL
      for (int j = 0; j < kAtOnce + K - 1; ++j) {
        const float2 v = P::load_pair(line + (i + j) * step);
        SM_UNROLL
        for (int o = 0; o < kAtOnce; ++o) {
          if (j < o || j >= o + K) continue;
          acc[o].x = fmaf(w[j - o].x, v.x, acc[o].x);
          acc[o].y = fmaf(w[j - o].y, v.y, acc[o].y);
        }
      }
      SM_UNROLL
      for (int o = 0; o < kAtOnce; ++o) out(i + o, acc[o]);
    }
  } else {
    for (int i = 0; i < count; ++i) {
      float2 acc = bias;
      for (int j = 0; j < kernel; ++j) {
        const float2 v = P::load_pair(line + (i + j) * step);
        const float2 w = __ldg(reinterpret_cast<const float2*>(weight + j * channels));
        acc.x = fmaf(w.x, v.x, acc.x);
        acc.y = fmaf(w.y, v.y, acc.y);
      }
      out(i, acc);
    }
  }
}

// A region of shared memory and the part of the image it shows.
template <class P>
struct LinesOf {
  typename P::Element* memory;
  int pitch, stride;  // pixels to a row, elements to a pixel
  int y, x;           // of its first pixel, in the image
};

// The horizontal pass in place: result (r, c) from (r, c) .. (r, c + k - 1), for c < columns. Channels first
// .. first + 2 pairs - 1 of the weights; rows outside the image become zero, as PyTorch pads the second pass.
template <class P, int K>
SM_DEVICE void horizontal_pass(const LinesOf<P>& region, int rows, int columns, int pairs, int first,
                               const Depthwise& conv, int channels, int kernel, int image_h) {
  for (int task = threadIdx.x; task < rows * pairs; task += kThreads) {
    const int pair = task % pairs, row = task / pairs;
    typename P::Element* line = region.memory + row * region.pitch * region.stride + 2 * pair;
    const bool out_of_image = region.y + row < 0 || region.y + row >= image_h;
    const float2 bias = __ldg(reinterpret_cast<const float2*>(conv.bias + first + 2 * pair));
    filter_line<P, K>(line, region.stride, columns, conv.weight + first + 2 * pair, channels, bias, kernel,
                      [&](int i, float2 value) {
                        P::store_pair(line + i * region.stride, out_of_image ? make_float2(0, 0) : value);
                      });
  }
}

// The vertical pass over what the horizontal one left: out(row, column, pair, value) for rows x columns
// pixels. out may write where (row, column) was.
template <class P, int K, class Out>
SM_DEVICE void vertical_pass(const LinesOf<P>& region, int rows, int columns, int pairs, int first,
                             const Depthwise& conv, int channels, int kernel, Out out) {
  for (int task = threadIdx.x; task < columns * pairs; task += kThreads) {
    const int pair = task % pairs, column = task / pairs;
    const typename P::Element* line = region.memory + column * region.stride + 2 * pair;
    const float2 bias = __ldg(reinterpret_cast<const float2*>(conv.bias + first + 2 * pair));
    filter_line<P, K>(line, region.pitch * region.stride, rows, conv.weight + first + 2 * pair, channels,
                      bias, kernel, [&](int i, float2 value) { out(i, column, pair, value); });
  }
}

}  // namespace cuda
}  // namespace seemore
