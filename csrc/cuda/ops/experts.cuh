// The experts, forward: A ((B x + b) * (C k + c)) + a, the chosen experts' ranks only.
//
// A block has a tile of pixels of all channels. A lane takes V neighbouring pixels, a warp 32 V of the tile,
// and four ranks or channels at a time. V is 4 where planes, channels and addresses allow loads of four
// elements.
#pragma once

#include "cuda/ops/experts.h"

namespace seemore {
namespace cuda {
namespace {

// The ranks that count in this block's image, and their experts' weights; in shared memory.
struct Chosen {
  int* rank;     // [count]
  float* scale;  // [R], 0 for the others
  int count;
};

SM_DEVICE Chosen choose(const ExpertsParams& p, void* memory) {
  Chosen chosen = {static_cast<int*>(memory), static_cast<float*>(memory) + p.rank + 1, 0};
  int* const count = chosen.rank + p.rank;
  const int r = threadIdx.x;  // kMostRanks are fewer than threads
  if (r < p.rank) {
    int e = 0;
    while (r >= p.first[e + 1]) ++e;
    chosen.scale[r] = p.weights ? __ldg(p.weights + (size_t)blockIdx.y * p.experts + e) : 1.0f;
  }
  __syncthreads();
  if (r < p.rank) {
    const bool counts = chosen.scale[r] != 0;
    int before = 0;
    for (int i = 0; i < r; ++i) before += chosen.scale[i] != 0;
    if (counts) chosen.rank[before] = r;
    if (r == p.rank - 1) *count = before + counts;
  }
  __syncthreads();
  chosen.count = *count;
  return chosen;
}

constexpr int kRows = 4;  // ranks or channels of a product

// One lane's V pixels, of 32 V of a tile, in an image; behind the last pixel it reads the last ones.
template <class T, int V>
struct Pixels {
  using Element = typename T::Element;
  size_t at;     // of channel 0
  size_t plane;  // from a channel to the next
  bool inside;

  SM_DEVICE Pixels(const ExpertsParams& p, int first) : plane(p.plane) {
    const int pixel = first + V * lane_id();
    inside = pixel < p.plane;
    at = (size_t)blockIdx.y * p.channels * plane + (inside ? pixel : p.plane - V);
  }
  SM_DEVICE const Element* of(const void* images, int channel) const {
    return static_cast<const Element*>(images) + at + channel * plane;
  }
  SM_DEVICE void store(void* images, int channel, const float (&v)[V]) const {
    if (inside) store_run<T>(static_cast<Element*>(images) + at + channel * plane, v);
  }
};

// acc[m] += w[m] v
template <int V>
SM_DEVICE void add_scaled(float (&acc)[kRows][V], const float (&w)[kRows], const float (&v)[V]) {
  SM_UNROLL
  for (int m = 0; m < kRows; ++m) SM_UNROLL
  for (int q = 0; q < V; ++q) acc[m][q] = fmaf(w[m], v[q], acc[m][q]);
}

// acc[m] += sum over the channels j of weight[rank[m]][j] and the image's channel j; V divides their number.
template <class T, int V>
SM_DEVICE void down(float (&acc)[kRows][V], const ExpertsParams& p, const int (&rank)[kRows],
                    const float* weight, const Pixels<T, V>& pixels, const void* images) {
  const float* row[kRows];
  SM_UNROLL
  for (int m = 0; m < kRows; ++m) row[m] = weight + (size_t)rank[m] * p.channels;
  const auto* image = pixels.of(images, 0);
  for (int j = 0; j < p.channels; j += V) {
    float w[kRows][V];
    SM_UNROLL
    for (int m = 0; m < kRows; ++m) load_run<Float32>(w[m], row[m] + j);
    SM_UNROLL
    for (int i = 0; i < V; ++i) {
      float v[V];
      load_run<T>(v, image);
      image += pixels.plane;
      const float column[kRows] = {w[0][i], w[1][i], w[2][i], w[3][i]};
      add_scaled(acc, column, v);
    }
  }
}

// The same of a matrix [C, R].
template <class T, int V>
SM_DEVICE void down_transposed(float (&acc)[kRows][V], const ExpertsParams& p, const int (&rank)[kRows],
                               const float* weight, const Pixels<T, V>& pixels, const void* images) {
  const auto* image = pixels.of(images, 0);
  for (int j = 0; j < p.channels; ++j) {
    float v[V], column[kRows];
    load_run<T>(v, image);
    SM_UNROLL
    for (int m = 0; m < kRows; ++m) column[m] = __ldg(weight + rank[m]);
    image += pixels.plane, weight += p.rank;
    add_scaled(acc, column, v);
  }
}

// What a block works on: tiles of kPixels, a warp on 32 V of them at a time.
template <class T, int V>
struct Experts {
  static constexpr int kParts = kPartsOf<V>, kPixels = 32 * V * kParts;

  const ExpertsParams& p;
  Chosen chosen;

  SM_DEVICE Experts(const ExpertsParams& given, void* memory) : p(given), chosen(choose(given, memory)) {}
  SM_DEVICE int tiles() const { return (p.plane + kPixels - 1) / kPixels; }
  SM_DEVICE int groups() const { return (chosen.count + kRows - 1) / kRows; }
  SM_DEVICE void ranks(int group, int (&rank)[kRows]) const {
    SM_UNROLL
    for (int m = 0; m < kRows; ++m) rank[m] = chosen.rank[min(group * kRows + m, chosen.count - 1)];
  }

  // acc[m] += sum over the chosen ranks of weight[rank][first + m], or of a matrix [C, R], and `products`.
  template <bool kTransposed>
  SM_DEVICE void up(float (&acc)[kRows][V], const float* weight, int first, const float* products) const {
    const float* of[kRows];  // kTransposed: a channel's ranks; else the channel of rank 0
    SM_UNROLL
    for (int m = 0; m < kRows; ++m) {
      const int channel = min(first + m, p.channels - 1);
      of[m] = weight + (kTransposed ? (size_t)channel * p.rank : (size_t)channel);
    }
    for (int i = 0; i < chosen.count; ++i) {
      const int rank = chosen.rank[i];
      float w[kRows], v[V];
      if constexpr (!kTransposed && V == kRows) {
        Float32::load(of[0] + rank * p.channels, w);
      } else {
        SM_UNROLL
        for (int m = 0; m < kRows; ++m) w[m] = __ldg(of[m] + (kTransposed ? rank : rank * p.channels));
      }
      fetch_run(v, products + i * kPixels);
      add_scaled(acc, w, v);
    }
  }
};

template <class T, int V>
SM_DEVICE void experts_kernel(const ExpertsParams& p) {
  SM_DYNAMIC_SHARED(shared);
  float* const products = reinterpret_cast<float*>(shared);  // [R, kPixels]
  const Experts<T, V> e(p, products + p.rank * Experts<T, V>::kPixels);
  const int lane = lane_id();
  for (int tile = blockIdx.x; tile < e.tiles(); tile += gridDim.x) {
    for (int job = warp_id(); job < e.groups() * e.kParts; job += kWarps) {
      const int group = job / e.kParts, part = job % e.kParts;
      const Pixels<T, V> pixels(p, tile * e.kPixels + part * 32 * V);
      int rank[kRows];
      e.ranks(group, rank);
      float b[kRows][V] = {}, c[kRows][V] = {};
      down<T, V>(b, p, rank, p.b_weight, pixels, p.x);
      down<T, V>(c, p, rank, p.c_weight, pixels, p.k);
      SM_UNROLL
      for (int m = 0; m < kRows; ++m) {
        const int i = group * kRows + m;
        if (i >= e.chosen.count) break;
        const float bias_b = __ldg(p.b_bias + rank[m]), bias_c = __ldg(p.c_bias + rank[m]),
                    scale = e.chosen.scale[rank[m]];
        SM_UNROLL
        for (int q = 0; q < V; ++q) b[m][q] = scale * (b[m][q] + bias_b) * (c[m][q] + bias_c);
        put_run(products + i * e.kPixels + (part * 32 + lane) * V, b[m]);
      }
    }
    __syncthreads();
    const int groups = (p.channels + kRows - 1) / kRows;
    for (int job = warp_id(); job < groups * e.kParts; job += kWarps) {
      const int first = job / e.kParts * kRows, part = job % e.kParts;
      const Pixels<T, V> pixels(p, tile * e.kPixels + part * 32 * V);
      float out[kRows][V] = {};
      for (int i = 0; i < p.experts; ++i) {
        const float scale = e.chosen.scale[p.first[i]];
        if (scale == 0) continue;
        SM_UNROLL
        for (int m = 0; m < kRows; ++m) {
          const float bias = scale * __ldg(p.a_bias + i * p.channels + min(first + m, p.channels - 1));
          SM_UNROLL
          for (int q = 0; q < V; ++q) out[m][q] += bias;
        }
      }
      e.template up<true>(out, p.a_weight, first, products + (part * 32 + lane) * V);
      SM_UNROLL
      for (int m = 0; m < kRows; ++m) {
        if (first + m >= p.channels) break;
        float x[V] = {};
        if (p.weights) load_run<T>(x, pixels.of(p.x, first + m));
        SM_UNROLL
        for (int q = 0; q < V; ++q) out[m][q] += x[q];
        pixels.store(p.out, first + m, out[m]);
      }
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace cuda
}  // namespace seemore
