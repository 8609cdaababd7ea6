// What the kernels share: rows of pixels in fragments, LayerNorm, dense layers, tiles of the image.
#pragma once

#include "cuda/engine/params.h"
#include "cuda/numeric.cuh"

namespace seemore {
namespace cuda {

// Of a block: plan.cc chooses between kThreads and twice as many, where kMostThreads allows it.
SM_DEVICE int threads() { return blockDim.x; }
SM_DEVICE int warps() { return blockDim.x / 32; }

// A tile's place in the image.
struct Place {
  int y, x;  // of its first pixel
};

// That of the block, which has image blockIdx.z.
SM_DEVICE Place place_of(const Tiling& at) {
  return {(int)blockIdx.y * at.tile_h, (int)blockIdx.x * at.tile_w};
}
// The same, where no register is to hold it.
SM_DEVICE Place place_found_here(const Tiling& at) {
  const uint2 block = block_found_here();
  return {(int)block.y * at.tile_h, (int)block.x * at.tile_w};
}

// Of all images' tiles, which one the block has whose place in the grid is `block`.
SM_DEVICE size_t tile_number(uint2 block) {
  return ((size_t)blockIdx.z * gridDim.y + block.y) * gridDim.x + block.x;
}

SM_DEVICE bool inside(const Tiling& at, int y, int x) { return y >= 0 && y < at.h && x >= 0 && x < at.w; }

// Elements of a stream with `channels` before one of its pixels, of which there are fewer than 2^31
// (engine.cc): a product of two words and no more.
SM_DEVICE size_t before(int pixel, int channels) { return (size_t)(unsigned)pixel * (unsigned)channels; }
// The same before image n, found where it is needed: no register is to hold it from end to end.
SM_DEVICE size_t image_start(const Tiling& at, int n, int channels) {
  return before(found_here(n) * found_here(at.h) * at.w, channels);
}

// The two pixels of a lane.
struct Pixels {
  long long index[2];  // row by row, or -1: outside the image, or none to compute
  int y[2], x[2];
};

// find(row, y, x): whether row 0 .. 15 of the fragment is a pixel to compute, and which.
template <class Find>
SM_DEVICE Pixels pixels_of(const Tiling& at, Find find) {
  Pixels found;
  SM_UNROLL
  for (int half = 0; half < 2; ++half) {
    int y = 0, x = 0;
    const bool there = find(lane_id() / 4 + 8 * half, y, x) && inside(at, y, x);
    found.index[half] = there ? (long long)y * at.w + x : -1;
    found.y[half] = y;
    found.x[half] = x;
  }
  return found;
}

// 16 pixels of the first 8 KT of `channels` of a stream as fragments in float32; zero where there is none.
template <class P, int KT>
SM_DEVICE void load_pixels(float (&v)[KT][4], const typename P::Element* stream, const Pixels& at,
                           int channels = 8 * KT) {
  SM_UNROLL
  for (int half = 0; half < 2; ++half) {
    const bool there = at.index[half] >= 0;
    const typename P::Element* p = stream + (there ? at.index[half] : 0) * channels + 2 * (lane_id() % 4);
    SM_UNROLL
    for (int k = 0; k < KT; ++k) {
      const float2 pair = there ? P::load_pair(p + 8 * k) : make_float2(0, 0);
      v[k][2 * half] = pair.x;
      v[k][2 * half + 1] = pair.y;
    }
  }
}

// To the first 8 NT of `channels` of a stream.
template <class P, int NT>
SM_DEVICE void store_pixels(typename P::Element* stream, int channels, const Pixels& at,
                            const float (&v)[NT][4]) {
  SM_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (at.index[half] < 0) continue;
    typename P::Element* p = stream + at.index[half] * channels + 2 * (lane_id() % 4);
    SM_UNROLL
    for (int n = 0; n < NT; ++n) P::store_pair(p + 8 * n, make_float2(v[n][2 * half], v[n][2 * half + 1]));
  }
}

SM_DEVICE float warp_sum(float x) {
  for (int distance = 16; distance; distance /= 2) x += __shfl_xor_sync(kFullMask, x, distance);
  return x;
}

// LayerNorm's statistics applied to 16 pixels: (v - mean) / sqrt(variance + 1e-6) over the first `dim`
// channels; the others stay zero.
template <int KT>
SM_DEVICE void normalise(float (&v)[KT][4], int dim) {
  SM_UNROLL
  for (int half = 0; half < 2; ++half) {
    float sum = 0;
    SM_UNROLL
    for (int k = 0; k < KT; ++k) sum += v[k][2 * half] + v[k][2 * half + 1];
    const float mean = quad_sum(sum) / dim;
    float squares = 0;
    SM_UNROLL
    for (int k = 0; k < KT; ++k) SM_UNROLL
    for (int i = 0; i < 2; ++i) {
      float& x = v[k][2 * half + i];
      x = 8 * k + 2 * (lane_id() % 4) + i < dim ? x - mean : 0.0f;
      squares = fmaf(x, x, squares);
    }
    const float scale = rsqrtf(quad_sum(squares) / dim + 1e-6f);
    SM_UNROLL
    for (int k = 0; k < KT; ++k) v[k][2 * half] *= scale, v[k][2 * half + 1] *= scale;
  }
}

template <int NT>
SM_DEVICE void apply(const Norm& norm, float (&v)[NT][4]) {
  SM_UNROLL
  for (int n = 0; n < NT; ++n) SM_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int channel = 8 * n + 2 * (lane_id() % 4) + i % 2;
    v[n][i] = fmaf(v[n][i], __ldg(norm.weight + channel), __ldg(norm.bias + channel));
  }
}

template <int NT>
SM_DEVICE void add(float (&v)[NT][4], const float (&other)[NT][4]) {
  SM_UNROLL
  for (int n = 0; n < NT; ++n) SM_UNROLL
  for (int i = 0; i < 4; ++i) v[n][i] += other[n][i];
}

template <class P, int KT>
SM_DEVICE void pack_all(typename P::Chunk (&a)[KT], const float (&v)[KT][4]) {
  SM_UNROLL
  for (int k = 0; k < KT; ++k) a[k] = P::pack(v[k]);
}

// The pair of a lane's channels in tile n of a [8 tiles] array.
SM_DEVICE float2 pair_of(const float* values, int n) {
  return __ldg(reinterpret_cast<const float2*>(values + 8 * n + 2 * (lane_id() % 4)));
}

// Starts accumulators at the bias of tiles first .. first + NT - 1.
template <int MT, int NT>
SM_DEVICE void start(float (&acc)[MT][NT][4], const Dense& layer, int first = 0) {
  SM_UNROLL
  for (int n = 0; n < NT; ++n) {
    const float2 bias = pair_of(layer.bias, first + n);
    SM_UNROLL
    for (int m = 0; m < MT; ++m) acc[m][n][0] = acc[m][n][2] = bias.x, acc[m][n][1] = acc[m][n][3] = bias.y;
  }
}

// Weights of tap `tap`, which has 8 KT inputs.
template <class P, int KT>
SM_DEVICE const typename P::Word* weights_of(const Dense& layer, int tap) {
  return static_cast<const typename P::Word*>(layer.weight) + (size_t)tap * KT * layer.tiles * P::kFragment;
}

// acc = bias + a W for NT tiles of outputs from `first` on.
template <class P, int MT, int NT, int KT>
SM_DEVICE void dense(float (&acc)[MT][NT][4], const typename P::Chunk (&a)[MT][KT], const Dense& layer,
                     int first = 0) {
  start(acc, layer, first);
  P::template multiply<MT, NT, KT>(acc, a, weights_of<P, KT>(layer, 0), layer.tiles, first);
}

template <int MT, int NT>
SM_DEVICE void gelu_all(float (&acc)[MT][NT][4]) {
  SM_UNROLL
  for (int m = 0; m < MT; ++m) SM_UNROLL
  for (int n = 0; n < NT; ++n) SM_UNROLL
  for (int i = 0; i < 4; ++i) acc[m][n][i] = gelu(acc[m][n][i]);
}

// Stores a tile's 16 pixels into shared memory, each at slot(row) if that is >= 0; zeros for pixels outside
// the image.
template <class P, int NT, class Slot>
SM_DEVICE void store_shared(typename P::Element* memory, int stride, const float (&v)[NT][4],
                            const Pixels& image, Slot slot) {
  SM_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int at = slot(lane_id() / 4 + 8 * half);
    if (at < 0) continue;
    typename P::Element* p = memory + at * stride + 2 * (lane_id() % 4);
    const bool zero = image.index[half] < 0;
    SM_UNROLL
    for (int n = 0; n < NT; ++n)
      P::store_pair(p + 8 * n, zero ? make_float2(0, 0) : make_float2(v[n][2 * half], v[n][2 * half + 1]));
  }
}

// The 3x3 convolution of MT times 16 pixels: pixel(m, row) is the place of a pixel's upper left neighbour in
// a buffer of `pitch` pixels to a row. Outputs: NT tiles from `first` on.
template <class P, int MT, int NT, int KT, class PixelOf>
SM_DEVICE void conv3x3(float (&acc)[MT][NT][4], const typename P::Element* memory, int stride, int pitch,
                       const Dense& layer, int first, PixelOf pixel) {
  start(acc, layer, first);
  for (int dy = 0; dy < 3; ++dy)
    for (int dx = 0; dx < 3; ++dx) {
      typename P::Chunk a[MT][KT];
      SM_UNROLL
      for (int m = 0; m < MT; ++m)
        P::template load<KT>(a[m], memory, stride, [&](int row) { return pixel(m, row) + dy * pitch + dx; });
      P::template multiply<MT, NT, KT>(acc, a, weights_of<P, KT>(layer, 3 * dy + dx), layer.tiles, first);
    }
}

}  // namespace cuda
}  // namespace seemore
