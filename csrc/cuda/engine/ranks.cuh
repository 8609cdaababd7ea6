// What `rme` leaves for the experts: rows of B x and C k, and logits.
#pragma once

#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

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
  const int x;      // the lane's first pixel
  const int quads;  // of a pixel
  const int down;   // pixels from a fragment to the next
  Quad* to;         // the lane's, of the next fragment
  Matrix<P, 2, NT> weight;
  typename P::template SumBias<2> bias;

  // fetched: with its weights.
  SM_DEVICE RmeRanks(const Tiling& tiling, Place place, const Below& which, void* stream, const Dense& layer,
                     int part, bool fetched = true)
      : at(tiling),
        x(place.x + which.column + lane_id() / 4),
        quads(2 * layer.tiles),
        down(which.down * at.w),
        to(static_cast<Quad*>(stream) + 4 * part + lane_id() % 4 +
           before(((int)blockIdx.z * at.h + place.y + which.row) * at.w + x, quads)) {
    if (!fetched) return;
    weight.fetch(layer.weight, part);
    bias.fetch(layer.bias + 16 * part);
  }
  // Of the next fragment.
  SM_DEVICE void store(const Chunk (&a)[1][NT]) {
    typename P::Sum acc[1][2];
    dense<P>(acc, a, weight, bias);
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
        store_global(to + 8 * half * quads, uint2{quad.w[0], quad.w[1]});
      else
        to[8 * half * quads] = quad;
    }
    to += before(down, quads);
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
