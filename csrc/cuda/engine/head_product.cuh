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

// 16 pixels times 16 of the inputs, a product with `weight`: offset(i) is the way from a pixel's
// neighbourhood to the lane's input i of four, or -1: none.
template <class P, int NT, class OffsetOf>
SM_DEVICE void add_inputs(float (&acc)[1][NT][4], const float* here, const Matrix<P, NT, 2>& weight,
                          OffsetOf offset) {
  typename P::Chunk a[1][2];
  SM_UNROLL
  for (int k = 0; k < 2; ++k) {
    float v[4];
    SM_UNROLL
    for (int j = 0; j < 2; ++j) {
      const int from = offset(2 * k + j);
      v[j] = from < 0 ? 0.0f : here[from];
      v[2 + j] = from < 0 ? 0.0f : here[from + 8];
    }
    a[0][k] = P::pack(v);
  }
  P::multiply(acc, a, weight);
}

// The 9 pixels of a neighbourhood times the channels are its inputs. Shared memory: the result; the tile with
// a border of 1, [in_chans, th + 2, tw + 2] in float32 (head_pitch()); for each input where it lies.
template <class P, int NT>
SM_DEVICE void head_product_kernel(const HeadParams& p) {
  using Element = typename P::Element;
  using Operand = typename HeadOperand<P>::Type;
  constexpr int stride = kStride<P, NT>;
  SM_DYNAMIC_SHARED(memory);
  const Tiling& at = p.at;
  const Place place = place_of(at);
  const Region region(at, place, 1, longer<2>(at));
  const int warp = threadIdx.x / 32, t = lane_id() % 4, g = lane_id() / 4;
  const int parts = (9 * p.in_chans + 15) / 16, pitch = p.pitch, plane = p.plane;
  auto* result = reinterpret_cast<Element*>(memory);  // [th, tw]
  auto* image = reinterpret_cast<float*>(result + at.tile_h * at.tile_w * stride);
  auto* offset = reinterpret_cast<int*>(image + p.in_chans * plane);  // [16 parts]

  for (int k = threadIdx.x; k < 16 * parts; k += kThreads) {
    const int channel = k / 9, tap = k % 9;
    offset[k] = channel < p.in_chans ? channel * plane + tap / 3 * pitch + tap % 3 : -1;
  }
  for (int channel = 0; channel < p.in_chans; ++channel) {
    const size_t from = ((size_t)blockIdx.z * p.in_chans + channel) * at.h * at.w;
    const float mean = __ldg(p.mean + channel);
    for (int i = threadIdx.x; i < region.count(); i += kThreads) {
      const int row = region.row_of(i), column = i - row * region.pitch, y = region.y + row,
                x = region.x + column;
      image[channel * plane + row * pitch + column] =
          inside(at, y, x) ? (read_pixel(p.in, from + (size_t)y * at.w + x, p.type) - mean) * p.range : 0.0f;
    }
  }
  __syncthreads();

  typename P::template Bias<NT> bias;
  bias.fetch_floats(p.bias);
  const int log = log_width(at) - 4;
  auto for_fragments = [&](auto add) {
    for (int i = warp; i < at.tile_h << log; i += kWarps) {
      const int row = i >> log, column = (i - (row << log)) * 16 + g;
      float acc[1][NT][4];
      P::begin(acc, bias);
      add(acc, image + row * pitch + column);
      typename P::Chunk v[NT];
      SM_UNROLL
      for (int n = 0; n < NT; ++n) v[n] = P::exact(acc[0][n]);
      P::template write<NT, stride>(result + i * 16 * stride, v);
    }
  };
  const int* mine = offset + 2 * t;
  // Registers hold two parts of operands in 16 bit, as three channels have: what is not a fragment's stays.
  if (Operand::kChannelsPerWord == 2 && parts == 2) {
    Matrix<Operand, NT, 2> weight[2];
    int from[2][4];
    SM_UNROLL
    for (int part = 0; part < 2; ++part) {
      weight[part].fetch(p.product, part);
      SM_UNROLL
      for (int i = 0; i < 4; ++i) from[part][i] = mine[16 * part + 8 * (i / 2) + i % 2];
    }
    for_fragments([&](float (&acc)[1][NT][4], const float* here) {
      SM_UNROLL
      for (int part = 0; part < 2; ++part)
        add_inputs<Operand, NT>(acc, here, weight[part], [&](int i) { return from[part][i]; });
    });
  } else {
    for_fragments([&](float (&acc)[1][NT][4], const float* here) {
      // Both parts at once spill in float32.
      SM_NO_UNROLL
      for (int part = 0; part < parts; ++part) {
        Matrix<Operand, NT, 2> weight;
        weight.fetch(p.product, part);
        add_inputs<Operand, NT>(acc, here, weight,
                                [&](int i) { return mine[16 * part + 8 * (i / 2) + i % 2]; });
      }
    });
  }
  __syncthreads();
  copy_out<P, NT, false>(static_cast<Element*>(p.out) + image_start(at, blockIdx.z, 8 * NT), nullptr, result,
                         at.tile_w, at, place);
}

}  // namespace cuda
}  // namespace seemore
