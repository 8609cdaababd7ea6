// RME after the pooling barrier: routing, the low-resolution map of a tile, and the chosen experts, added to
// the rows of pixels that the feed-forward (ffn.cuh) loads.
#pragma once

#include "cuda/engine/tile.cuh"

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

template <class P, int NT>
struct Mix {
  static constexpr int kChannels = 8 * NT;
  using Element = typename P::Element;

  const MixParams& p;
  const Tiling& at;
  const int n, ranks;
  // Shared memory.
  float* map;     // [rows, columns, RP]: the low-resolution map around the tile
  float* weight;  // [RP]: the probability of the row's expert if chosen, else 0
  float* bias;    // [CP]: the chosen experts' biases, weighted
  float* logits;  // [experts]
  float* level;   // [rows + 2, columns + 2, CP], in scratch memory that the feed-forward overwrites
  float* mixed;   // [rows, columns, CP], likewise
  Place origin;   // of map in the low-resolution image
  int columns;

  SM_DEVICE Mix(const MixParams& params, const Tiling& tiling, float* memory, float* scratch)
      : p(params), at(tiling), n(blockIdx.y), ranks(params.ranks) {
    map = memory;
    weight = map + p.most_rows * p.most_columns * ranks;
    bias = weight + ranks;
    logits = bias + kChannels;
    level = scratch;
    mixed = level + (p.most_rows + 2) * (p.most_columns + 2) * kChannels;
  }

  // Ends with a barrier.
  SM_DEVICE void prepare(Place place) {
    sum_logits(p, at, n, logits);
    const Tap top = tap_of(max(place.y - 1, 0), p.map_h, at.h),
              left = tap_of(max(place.x - 1, 0), p.map_w, at.w);
    const Tap bottom = tap_of(min(place.y + at.tile_h, at.h - 1), p.map_h, at.h);
    const Tap right = tap_of(min(place.x + at.tile_w, at.w - 1), p.map_w, at.w);
    origin = {top.near, left.near};
    const int rows = bottom.far - top.near + 1;
    columns = right.far - left.near + 1;
    load_level(rows);
    __syncthreads();
    if (threadIdx.x == 0) choose(p, logits);
    mix_level(rows);
    __syncthreads();
    project_level(rows);
    weigh(p, logits, kChannels, weight, bias);
    __syncthreads();
  }

  // The last level of aggregation with a border of 1, zero outside it.
  SM_DEVICE void load_level(int rows) {
    const float* low = p.low + (size_t)n * p.low_h * p.low_w * kChannels;
    for (int task = threadIdx.x; task < (rows + 2) * (columns + 2) * kChannels; task += kThreads) {
      const int channel = task % kChannels, i = task / kChannels;
      const int y = origin.y - 1 + i / (columns + 2), x = origin.x - 1 + i % (columns + 2);
      float value = 0;
      if (y >= 0 && y < p.map_h && x >= 0 && x < p.map_w) {
        if (p.aggregate_again) {
          value = __ldg(p.aggregate.bias + channel);
          for (int tap = 0; tap < 16; ++tap) {
            const size_t from = ((size_t)(4 * y + tap / 4) * p.low_w + 4 * x + tap % 4) * kChannels + channel;
            value = fmaf(__ldg(p.aggregate.weight + tap * kChannels + channel), __ldg(low + from), value);
          }
          value = gelu(value);
        } else {
          value = __ldg(low + ((size_t)y * p.low_w + x) * kChannels + channel);
        }
      }
      level[task] = value;
    }
  }

  // Depthwise 3x3.
  SM_DEVICE void mix_level(int rows) {
    for (int task = threadIdx.x; task < rows * columns * kChannels; task += kThreads) {
      const int channel = task % kChannels, i = task / kChannels, y = i / columns, x = i % columns;
      float value = __ldg(p.low_conv.bias + channel);
      for (int tap = 0; tap < 9; ++tap) {
        const int from = ((y + tap / 3) * (columns + 2) + x + tap % 3) * kChannels + channel;
        value = fmaf(__ldg(p.low_conv.weight + tap * kChannels + channel), level[from], value);
      }
      mixed[task] = value;
    }
  }

  SM_DEVICE void project_level(int rows) {
    for (int task = threadIdx.x; task < rows * columns * ranks; task += kThreads) {
      const int rank = task % ranks, i = task / ranks;
      map[task] = project_low(p, mixed + i * kChannels, kChannels, rank);
    }
  }

  // v += sum over the chosen experts e of w_e (A_e (b_e * (c_e + up_e)) + a_e), for the lane's pixels.
  template <int MT>
  SM_DEVICE void add_experts(float (&v)[MT][NT][4], const Pixels (&pixels)[MT]) const {
    const int t = lane_id() % 4;
    SM_UNROLL
    for (int k = 0; k < NT; ++k) SM_UNROLL
    for (int m = 0; m < MT; ++m) SM_UNROLL
    for (int i = 0; i < 4; ++i) v[m][k][i] += bias[8 * k + 2 * t + i % 2];
    const auto* b = static_cast<const Element*>(p.b) + image_start(at, n, ranks);
    const auto* c = static_cast<const Element*>(p.c) + image_start(at, n, ranks);
    for (int first = 0; first < ranks; first += 16) {
      bool needed = false;
      for (int i = 0; i < 16; ++i) needed |= !(weight[first + i] == 0);
      if (!needed) continue;  // the same in all threads
      typename P::Chunk z[MT][2];
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        float product[2][4];
        SM_UNROLL
        for (int half = 0; half < 2; ++half) {
          const bool there = pixels[m].index[half] >= 0;
          const Tap y = tap_of(pixels[m].y[half], p.map_h, at.h),
                    x = tap_of(pixels[m].x[half], p.map_w, at.w);
          SM_UNROLL
          for (int k = 0; k < 2; ++k) {
            const int rank = first + 8 * k + 2 * t;
            float2 z_pair = make_float2(0, 0);
            if (there) {
              const float2 bx = P::load_pair(b + pixels[m].index[half] * ranks + rank);
              const float2 ck = P::load_pair(c + pixels[m].index[half] * ranks + rank);
              const float2 up = resized(map, origin, columns, ranks, y, x, rank);
              z_pair = expert_rows(bx, ck, up, weight + rank);
            }
            product[k][2 * half] = z_pair.x;
            product[k][2 * half + 1] = z_pair.y;
          }
        }
        pack_all<P>(z[m], product);
      }
      P::template multiply<MT, NT, 2>(v, z, weights_of<P, 2>(p.expert_out, first / 16), p.expert_out.tiles,
                                      0);
    }
  }
};

}  // namespace cuda
}  // namespace seemore
