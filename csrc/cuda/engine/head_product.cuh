// Head of a few input channels as a matrix product.
#pragma once

#include "cuda/engine/head.cuh"
#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

// What is multiplied. bf16's 8 bits of the picture and of these weights would be most of a network's error,
// for `conv` adds the head's result to what becomes the picture.
template <class P>
struct HeadOperand {
  using Type = P;
};
template <>
struct HeadOperand<Bf16> {
  using Type = Tf32;
};

// Blocks to a multiprocessor (numeric.cuh).
template <class P, int NT>
constexpr int kBlocksOfHead = sizeof(typename P::Element) == 2 || NT <= 5 ? 2 : 1;

// The 9 pixels of a neighbourhood times the channels are its inputs. Shared memory: the tile with a border of
// 1, [in_chans, th + 2, tw + 2] in float32, a zero; for each input where it lies; the result.
template <class P, int NT>
SM_DEVICE void head_product_kernel(const HeadParams& p) {
  using Element = typename P::Element;
  using Operand = typename HeadOperand<P>::Type;
  constexpr int stride = kStride<P, NT>;
  SM_DYNAMIC_SHARED(memory);
  const Tiling& at = p.at;
  const Place place = place_of(at, blockIdx.x);
  const Region region(at, place, 1, at.tile_w + 2);
  const int warp = threadIdx.x / 32, t = lane_id() % 4, g = lane_id() / 4;
  const int parts = (9 * p.in_chans + 15) / 16, pixels = region.count() * p.in_chans;
  auto* result = reinterpret_cast<Element*>(memory);  // [th, tw]
  auto* image = reinterpret_cast<float*>(result + at.tile_h * at.tile_w * stride);
  auto* offset = reinterpret_cast<int*>(image + pixels + 1);  // [16 parts]

  for (int k = threadIdx.x; k < 16 * parts; k += kThreads) {
    const int channel = k / 9, tap = k % 9;
    offset[k] = channel < p.in_chans ? channel * region.count() + tap / 3 * region.pitch + tap % 3 : -1;
  }
  for (int channel = 0; channel < p.in_chans; ++channel) {
    const size_t plane = ((size_t)blockIdx.y * p.in_chans + channel) * at.h * at.w;
    const float mean = __ldg(p.mean + channel);
    for (int i = threadIdx.x; i < region.count(); i += kThreads) {
      const int row = region.row_of(i), y = region.y + row, x = region.x + i - row * region.pitch;
      image[channel * region.count() + i] =
          inside(at, y, x) ? (read_pixel(p.in, plane + (size_t)y * at.w + x, p.type) - mean) * p.range : 0.0f;
    }
  }
  if (threadIdx.x == 0) image[pixels] = 0;
  __syncthreads();

  typename P::template Bias<NT> bias;
  bias.fetch_floats(p.bias);
  const int log = log_width(at) - 4;
  for (int i = warp; i < at.tile_h << log; i += kWarps) {
    const int row = i >> log, column = (i - (row << log)) * 16 + g;
    const float* here = image + row * region.pitch + column;
    float acc[1][NT][4];
    P::begin(acc, bias);
    // Both parts at once spill in float32.
    SM_NO_UNROLL
    for (int part = 0; part < parts; ++part) {
      Matrix<Operand, NT, 2> weight;
      weight.fetch(p.product, part);
      typename Operand::Chunk a[1][2];
      SM_UNROLL
      for (int k = 0; k < 2; ++k) {
        float v[4];
        SM_UNROLL
        for (int j = 0; j < 2; ++j) {
          const int from = offset[16 * part + 8 * k + 2 * t + j];
          v[j] = from < 0 ? 0.0f : here[from];
          v[2 + j] = from < 0 ? 0.0f : here[from + 8];
        }
        a[0][k] = Operand::pack(v);
      }
      Operand::multiply(acc, a, weight);
    }
    typename P::Chunk v[NT];
    SM_UNROLL
    for (int n = 0; n < NT; ++n) v[n] = P::exact(acc[0][n]);
    P::template write<NT, stride>(result + i * 16 * stride, v);
  }
  __syncthreads();
  copy_out<P, NT, false>(static_cast<Element*>(p.out) + image_start(at, blockIdx.y, 8 * NT), nullptr, result,
                         at.tile_w, at, place);
}

}  // namespace cuda
}  // namespace seemore
