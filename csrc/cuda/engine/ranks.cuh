// What `rme` leaves for the experts: rows of B x and C k, and logits.
#pragma once

#include "cuda/engine/tile.cuh"

namespace seemore {
namespace cuda {

// image_start() of the block's image, found where it is needed: of sizes with a sign the upper halves would
// be kept in registers, too.
SM_DEVICE size_t start_of_image(const Tiling& at, int channels) {
  return (size_t)blockIdx.z * (unsigned)found_here(at.h) * (unsigned)at.w * (unsigned)channels;
}

// 16 of the experts' rows of a matrix, and where they go.
template <class P, int NT>
struct RmeRanks {
  using Element = typename P::Element;
  using Word = typename P::Word;
  using Chunk = typename P::Chunk;
  static constexpr int words = P::kChunkWords / 2;
  struct alignas(2 * words * sizeof(Word)) Quad {
    Word w[2 * words];
  };
  const Tiling& at;
  const Place place;
  const int ranks;
  Element* const image;  // the lane's
  Matrix<P, 2, NT> weight;
  typename P::template SumBias<2> bias;

  // fetched: with its weights.
  SM_DEVICE RmeRanks(const Tiling& tiling, Place tile, void* stream, const Dense& layer, int part,
                     bool fetched = true)
      : at(tiling),
        place(tile),
        ranks(8 * layer.tiles),
        image(static_cast<Element*>(stream) + start_of_image(at, ranks) + 16 * part + 4 * (lane_id() % 4)) {
    if (!fetched) return;
    weight.fetch(layer.weight, part);
    bias.fetch(layer.bias + 16 * part);
  }
  SM_DEVICE void store(const Chunk (&a)[1][NT], int row, int column) const {
    typename P::Sum acc[1][2];
    dense<P>(acc, a, weight, bias);
    const int y = place.y + row, x = place.x + column + lane_id() / 4;
    if (y >= at.h) return;
    Element* to = image + ((size_t)y * at.w + x) * ranks;
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (x + 8 * half >= at.w) continue;
      Quad quad;
      SM_UNROLL
      for (int t = 0; t < 2; ++t) {
        const Chunk v = P::exact(acc[0][t]);
        SM_UNROLL
        for (int i = 0; i < words; ++i) quad.w[t * words + i] = v.v[half * words + i];
      }
      if constexpr (words == 1)
        store_global(to + 8 * half * ranks, uint2{quad.w[0], quad.w[1]});
      else
        *reinterpret_cast<Quad*>(to + 8 * half * ranks) = quad;
    }
  }
};

// Logits of four experts, summed over pixels: a column of weights has the upper half of an expert's, the
// next one the lower half.
template <class P, int NT>
struct RmeLogits {
  using Chunk = typename P::Chunk;
  Matrix<P, 1, NT> weight;
  float sum[1][1][4] = {};

  SM_DEVICE RmeLogits(const Dense& router, int tile, bool fetched = true) {
    if (fetched) weight.fetch(router.weight, tile);
  }
  SM_DEVICE void add(const Chunk (&a)[1][NT]) { P::multiply(sum, a, weight); }
  // to: [4]
  SM_DEVICE void store(float* to) {
    const float (&v)[4] = sum[0][0];
    float all = (v[0] + v[2]) + (v[1] + v[3]);
    for (int distance = 4; distance < 32; distance *= 2) all += __shfl_xor_sync(kFullMask, all, distance);
    if (lane_id() < 4) to[lane_id()] = all;
  }
};

}  // namespace cuda
}  // namespace seemore
