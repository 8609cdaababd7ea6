// RME after the pooling barrier: routing, and the chosen experts, added to the pixels that the feed-forward
// (ffn.cuh) has staged.
#pragma once

#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

// Where bilinear resizing (align_corners=False) takes sample i of `size` from, out of `low`.
struct Tap {
  int near, far;
  float weight;  // of far
};

SM_DEVICE Tap tap_of(int i, int low, int size) {
  const float at = fmaxf((i + 0.5f) * ((float)low / size) - 0.5f, 0.0f);
  const int near = min((int)at, low - 1);
  return {near, min(near + 1, low - 1), at - near};
}

// Logits of image n: the blocks' shares, always in the same order, a warp to an expert.
SM_DEVICE void sum_logits(const MixParams& p, const Tiling& at, int n, float* logits) {
  for (int expert = threadIdx.x / 32; expert < p.experts; expert += kWarps) {
    const float* partial = p.partial + (size_t)n * p.blocks * p.experts + expert;
    float sum = 0;
    for (int block = lane_id(); block < p.blocks; block += 32)
      sum += __ldg(partial + (size_t)block * p.experts);
    sum = warp_sum(sum);
    if (lane_id() == 0) logits[expert] = sum / ((float)at.h * at.w);
  }
}

// Logits -> probabilities of the chosen, 0 for the others. Of equal ones the lower index is taken.
SM_DEVICE void choose(const MixParams& p, float* logits) {
  float largest = logits[0];
  for (int e = 1; e < p.experts; ++e) largest = fmaxf(largest, logits[e]);
  float sum = 0;
  for (int e = 0; e < p.experts; ++e) sum += expf(logits[e] - largest);
  unsigned long long chosen = 0;
  for (int i = 0; i < p.topk; ++i) {
    int best = -1;
    for (int e = 0; e < p.experts; ++e)
      if (!(chosen >> e & 1) && (best < 0 || logits[e] > logits[best])) best = e;
    chosen |= 1ull << best;
  }
  // largest is not NaN where only some logits are: the sum is, and so every weight.
  for (int e = 0; e < p.experts; ++e) logits[e] = chosen >> e & 1 ? expf(logits[e] - largest) / sum : 0.0f;
}

// What the probabilities of an image's experts make of its RP rows and CP biases.
SM_DEVICE void weigh(const MixParams& p, const float* logits, int channels, float* weight, float* bias) {
  for (int channel = threadIdx.x; channel < channels; channel += kThreads) {
    float sum = 0;
    for (int expert = 0; expert < p.experts; ++expert)
      sum = fmaf(logits[expert], __ldg(p.bias_out + expert * channels + channel), sum);
    bias[channel] = sum;
  }
  for (int rank = threadIdx.x; rank < p.ranks; rank += kThreads) {
    const int expert = __ldg(p.rank_of + rank);
    weight[rank] = expert < 0 ? 0.0f : logits[expert];
  }
}

// A row of the coarse map from a pixel's channels.
SM_DEVICE float project_low(const MixParams& p, const float* mixed, int channels, int rank) {
  float value = __ldg(p.low_proj_bias + rank);
  for (int channel = 0; channel < channels; ++channel)
    value = fmaf(__ldg(p.low_proj + (size_t)channel * p.ranks + rank), mixed[channel], value);
  return value;
}

// Two rows of a map of `columns` pixels to a row, whose first pixel is `origin`, between its pixels.
SM_DEVICE float2 resized(const float* map, Place origin, int columns, int ranks, const Tap& y, const Tap& x,
                         int rank) {
  auto sample = [&](int row, int column) {
    return *reinterpret_cast<const float2*>(map + ((row - origin.y) * columns + column - origin.x) * ranks +
                                            rank);
  };
  const float2 a = sample(y.near, x.near), b = sample(y.near, x.far);
  const float2 c = sample(y.far, x.near), d = sample(y.far, x.far);
  const float2 top = make_float2(a.x + (b.x - a.x) * x.weight, a.y + (b.y - a.y) * x.weight);
  const float2 bottom = make_float2(c.x + (d.x - c.x) * x.weight, c.y + (d.y - c.y) * x.weight);
  return make_float2(top.x + (bottom.x - top.x) * y.weight, top.y + (bottom.y - top.y) * y.weight);
}

// Two rows of what the experts multiply. One that was not chosen counts for nothing, also where it overflows.
SM_DEVICE float2 expert_rows(float2 b, float2 c, float2 up, const float* weight) {
  return make_float2(weight[0] == 0 ? 0.0f : b.x * (c.x + up.x) * weight[0],
                     weight[1] == 0 ? 0.0f : b.y * (c.y + up.y) * weight[1]);
}

// The experts' part of a tile: z = b * (c + map, resized) * weight of 16 ranks at a time, in the places of
// the feed-forward's g, then its product, added to y.
template <class P, int NT>
struct Mix {
  using Element = typename P::Element;
  using Word = typename P::Word;
  using Chunk = typename P::Chunk;
  using Vec = typename P::Vec;
  static constexpr int stride = kStride<P, NT>, kRanks = 16;  // ranks at a time
  static constexpr int kUnits = kRanks / kUnit<P>;            // of 16 bytes

  const MixParams& p;
  const Tiling& at;
  const Region region;
  const int n;
  int near, columns;  // of the map that the tile needs: the first, and how many
  // Shared memory.
  Element*
      lines;    // [region.rows, columns, 2, kRanks]: the map at each row's height, and the step to the next
  Word* share;  // [region.pitch]: of the step, for each column
  int* place;   // [region.pitch]: where each column begins in the map

  SM_DEVICE Mix(const MixParams& params, const Tiling& tiling, const Region& around, unsigned char* memory)
      : p(params), at(tiling), region(around), n(blockIdx.z) {
    lines = reinterpret_cast<Element*>(memory);
    share = reinterpret_cast<Word*>(lines + region.rows * p.most_columns * 2 * kRanks);
    place = reinterpret_cast<int*>(share + region.pitch);
  }

  // Found where it is needed: fp16's wider kernels have no register for it.
  static SM_DEVICE int warp() {
    return (kHalfSums<P> && NT > 5 ? (unsigned)thread_found_here() : threadIdx.x) / 32;
  }

  SM_DEVICE Tap column_tap(int column) const {
    return tap_of(min(max(region.x + column, 0), at.w - 1) + p.left, p.map_w, p.full_w);
  }

  SM_DEVICE void place_columns() {
    near = column_tap(0).near;
    columns = column_tap(region.pitch - 1).near - near + 1;
    for (int column = threadIdx.x; column < region.pitch; column += threads()) {
      const Tap tap = column_tap(column);
      share[column] = P::splat(tap.weight);
      place[column] = tap.near;
    }
    __syncthreads();
    near = place[0];
    columns = place[region.pitch - 1] - near + 1;
  }

  // Ranks `first` and following of the map, between its rows: four of a pixel to a thread.
  SM_DEVICE void resize_rows(int first) {
    const auto* map = static_cast<const Element*>(p.map) + (size_t)n * p.map_h * p.map_w * p.ranks + first;
    const int inverse = 65535 / columns + 1;  // as Region's: there are some ten columns
    for (int task = threadIdx.x; task < region.rows * columns * kRanks / 4; task += threads()) {
      const int rank = task % (kRanks / 4) * 4, other = task / (kRanks / 4);
      const int row = other * inverse >> 16, column = near + other - row * columns;
      const Tap y = tap_of(min(max(region.y + row, 0), at.h - 1) + p.top, p.map_h, p.full_h);
      const int above = y.near * p.map_w, below = y.far * p.map_w, beside = min(column + 1, p.map_w - 1);
      Element* to = lines + other * 2 * kRanks + rank;
      SM_UNROLL
      for (int i = 0; i < 4; i += 2) {
        auto between = [&](int x) {
          const float2 a = P::load_pair(map + (above + x) * p.ranks + rank + i);
          const float2 b = P::load_pair(map + (below + x) * p.ranks + rank + i);
          return make_float2(a.x + (b.x - a.x) * y.weight, a.y + (b.y - a.y) * y.weight);
        };
        const float2 here = between(column), next = between(beside);
        P::store_pair(to + i, here);
        P::store_pair(to + kRanks + i, make_float2(next.x - here.x, next.y - here.y));
      }
    }
  }

  // What the experts multiply: z of all the region's pixels, zero where no expert was chosen, also where it
  // overflows.
  SM_DEVICE void products(Element* z, int first) {
    // Eight lanes have eight columns, or two of four rows, in banks of their own.
    constexpr int kPixels = 32 / kUnits;  // of a warp
    const int unit = lane_id() / 8 % kUnits, pixel = lane_id() % 8 + lane_id() / (8 * kUnits) * 8;
    Vec weight;
    unsigned chosen[4];
    SM_UNROLL
    for (int i = 0; i < 4; ++i) {
      constexpr int channels = P::kChannelsPerWord;
      float v[2] = {};
      SM_UNROLL
      for (int j = 0; j < channels; ++j)
        v[j] = __ldg(p.weight + n * p.ranks + first + unit * kUnit<P> + i * channels + j);
      weight.w[i] = P::from_floats(v[0], v[1]);
      chosen[i] = P::mask(v[0] != 0, v[1] != 0);
    }
    const auto* b = static_cast<const Element*>(p.b) + image_start(at, n, p.ranks) + first + unit * kUnit<P>;
    const auto* c = static_cast<const Element*>(p.c) + image_start(at, n, p.ranks) + first + unit * kUnit<P>;
    // As many columns of a row as the tile has; then the two that the border adds, of some rows at a time.
    const int log = log_width(at) - (kPixels == 16 ? 4 : 3), whole = region.rows << log,
              all = whole + (2 * region.rows + kPixels - 1) / kPixels;
    for (int task = warp(); task < all; task += warps()) {
      const bool last = task >= whole;
      const int row = last ? (task - whole) * (kPixels / 2) + pixel / 2 : task >> log;
      const int column = last ? at.tile_w + pixel % 2 : (task - (row << log)) * kPixels + pixel;
      const int y = region.y + row, x = region.x + column;
      if (row >= region.rows || !inside(at, y, x)) continue;
      const Element* line = lines + (row * columns + place[column] - near) * 2 * kRanks + unit * kUnit<P>;
      const size_t from = before(y * at.w + x, p.ranks);
      const Vec bx = P::load_vec(b + from), ck = P::load_vec(c + from);
      const Vec base = P::load_vec(line), step = P::load_vec(line + kRanks);
      Vec v;
      SM_UNROLL
      for (int i = 0; i < 4; ++i) {
        const Word up = P::fma(step.w[i], share[column], base.w[i]);
        v.w[i] = P::keep(P::mul(P::mul(bx.w[i], P::add(ck.w[i], up)), weight.w[i]), chosen[i]);
      }
      P::store_vec(z + (row * region.pitch + column) * stride + unit * kUnit<P>, v);
    }
  }

  // y += P A_e z, with the experts' biases in the first round.
  template <bool kBias>
  SM_DEVICE void add_products(Element* y, const Element* z, int part) {
    Matrix<P, NT, 2> weight;
    weight.fetch(p.expert_out.weight, part);
    typename P::template SumBias<NT> bias;
    const int none = region.count() >> 30;  // 0, but the compiler does not know
    if constexpr (kBias) bias.fetch_floats(p.bias + n * 8 * NT, none);
    for (int first = 16 * warp(); first < region.count(); first += 16 * warps()) {
      Chunk v[NT], products[1][2];
      typename P::Sum acc[1][NT];
      P::template read<2, stride>(products[0], z + first * stride);
      if constexpr (kBias) {
        P::begin(acc, bias);
      } else {
        SM_UNROLL
        for (int k = 0; k < NT; ++k) SM_UNROLL
        for (auto& x : acc[0][k]) x = 0;
      }
      P::multiply(acc, products, weight);
      P::template read<NT, stride>(v, y + first * stride);
      SM_UNROLL
      for (int k = 0; k < NT; ++k) {
        const Chunk sum = P::exact(acc[0][k]);
        SM_UNROLL
        for (int i = 0; i < P::kChunkWords; ++i) v[k].v[i] = P::add(v[k].v[i], sum.v[i]);
      }
      P::template write<NT, stride>(y + first * stride, v);
    }
  }

  // Ends with a barrier. Pixels outside the image get the experts' biases: nobody reads them.
  SM_DEVICE void run(Element* y, Element* z) {
    place_columns();
    bool first_time = true;
    for (int first = 0; first < p.ranks; first += kRanks) {
      const bool chosen = lane_id() < kRanks && !(__ldg(p.weight + n * p.ranks + first + lane_id()) == 0);
      if (!__ballot_sync(kFullMask, chosen)) continue;  // the same in all warps
      resize_rows(first);
      clear_outside(z);
      __syncthreads();
      products(z, first);
      __syncthreads();
      if (first_time)
        add_products<true>(y, z, first / kRanks);
      else
        add_products<false>(y, z, first / kRanks);
      __syncthreads();
      first_time = false;
    }
  }

  // z of the pixels that products() leaves out.
  SM_DEVICE void clear_outside(Element* z) {
    const Vec zero = {};
    const int all = round_to_fragment(region.count());
    const bool beyond = region.beyond_image(at);
    for (int i = threadIdx.x + (beyond ? 0 : region.count()); i < all; i += threads()) {
      if (i < region.count() && region.shows(at, i)) continue;
      SM_UNROLL
      for (int unit = 0; unit < kUnits; ++unit) P::store_vec(z + i * stride + unit * kUnit<P>, zero);
    }
  }
};

}  // namespace cuda
}  // namespace seemore
