// low_rank_experts and the experts of mix_experts: A ((B x + b) * (C k + c)) + a, the chosen experts' ranks
// only.
//
// A block has 32 PX pixels of all channels: lane l takes pixels l, l + 32, .., warps share out ranks and
// channels.
#include "cuda/entry.cuh"
#include "cuda/ops/element.cuh"

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

// acc[m][q] += sum over i of weight(m, i) value(i, q).
template <int M, int PX, class Weight, class Value>
SM_DEVICE void multiply(float (&acc)[M][PX], int inner, Weight weight, Value value) {
  for (int i = 0; i < inner; ++i) {
    float v[PX];
    SM_UNROLL
    for (int q = 0; q < PX; ++q) v[q] = value(i, q);
    SM_UNROLL
    for (int m = 0; m < M; ++m) {
      const float w = weight(m, i);
      SM_UNROLL
      for (int q = 0; q < PX; ++q) acc[m][q] = fmaf(w, v[q], acc[m][q]);
    }
  }
}

// An image's pixels of one tile: value(channel, q), zero behind the last pixel.
template <class T, int PX>
struct Pixels {
  const typename T::Element* image;
  int plane, first;

  SM_DEVICE Pixels(const ExpertsParams& p, const void* images, int tile)
      : image(static_cast<const typename T::Element*>(images) + (size_t)blockIdx.y * p.channels * p.plane),
        plane(p.plane),
        first(tile * 32 * PX + lane_id()) {}
  SM_DEVICE bool inside(int q) const { return first + 32 * q < plane; }
  SM_DEVICE size_t at(int channel, int q) const { return (size_t)channel * plane + first + 32 * q; }
  SM_DEVICE float operator()(int channel, int q) const {
    return inside(q) ? T::load(image + at(channel, q)) : 0.0f;
  }
};

template <class T>
SM_DEVICE typename T::Element* image_of(const ExpertsParams& p, void* images) {
  return static_cast<typename T::Element*>(images) + (size_t)blockIdx.y * p.channels * p.plane;
}

constexpr int kRanksAtOnce = 2, kChannelsAtOnce = 4;

template <class T, int PX>
SM_DEVICE void experts_kernel(const ExpertsParams& p) {
  SM_DYNAMIC_SHARED(shared);
  constexpr int kPixels = 32 * PX;
  float* const products = reinterpret_cast<float*>(shared);  // [R, kPixels]
  const Chosen chosen = choose(p, products + p.rank * kPixels);
  const int lane = lane_id(), channels = p.channels;
  for (int tile = blockIdx.x; tile < (p.plane + kPixels - 1) / kPixels; tile += gridDim.x) {
    const Pixels<T, PX> x(p, p.x, tile), k(p, p.k, tile);
    for (int i = warp_id() * kRanksAtOnce; i < chosen.count; i += kWarps * kRanksAtOnce) {
      int rank[kRanksAtOnce];
      SM_UNROLL
      for (int m = 0; m < kRanksAtOnce; ++m) rank[m] = chosen.rank[min(i + m, chosen.count - 1)];
      float b[kRanksAtOnce][PX] = {}, c[kRanksAtOnce][PX] = {};
      multiply(b, channels, [&](int m, int j) { return __ldg(p.b_weight + rank[m] * channels + j); }, x);
      multiply(c, channels, [&](int m, int j) { return __ldg(p.c_weight + rank[m] * channels + j); }, k);
      SM_UNROLL
      for (int m = 0; m < kRanksAtOnce; ++m) {
        if (i + m >= chosen.count) break;
        const float bias_b = __ldg(p.b_bias + rank[m]), bias_c = __ldg(p.c_bias + rank[m]);
        SM_UNROLL
        for (int q = 0; q < PX; ++q)
          products[(i + m) * kPixels + 32 * q + lane] =
              chosen.scale[rank[m]] * (b[m][q] + bias_b) * (c[m][q] + bias_c);
      }
    }
    __syncthreads();
    for (int first = warp_id() * kChannelsAtOnce; first < channels; first += kWarps * kChannelsAtOnce) {
      float out[kChannelsAtOnce][PX] = {};
      multiply(
          out, chosen.count,
          [&](int m, int i) {
            return __ldg(p.a_weight + min(first + m, channels - 1) * p.rank + chosen.rank[i]);
          },
          [&](int i, int q) { return products[i * kPixels + 32 * q + lane]; });
      SM_UNROLL
      for (int m = 0; m < kChannelsAtOnce; ++m) {
        if (first + m >= channels) break;
        float bias = 0;
        for (int e = 0; e < p.experts; ++e) {
          const float scale = chosen.scale[p.first[e]];
          if (scale != 0) bias = fmaf(scale, __ldg(p.a_bias + e * channels + first + m), bias);
        }
        SM_UNROLL
        for (int q = 0; q < PX; ++q)
          if (x.inside(q))
            T::store(image_of<T>(p, p.out) + x.at(first + m, q),
                     out[m][q] + bias + (p.weights ? x(first + m, q) : 0.0f));
      }
    }
    __syncthreads();
  }
}

// partial (ExpertsParams) of this block.
struct Sums {
  float* matrix[3];  // [R, C] each
  float* bias[2];    // [R] each
  float* grad;       // [C]
  float* scale;      // [R]
};

SM_DEVICE Sums sums_of(const ExpertsParams& p) {
  const size_t matrix = (size_t)p.rank * p.channels, width = 3 * matrix + 3 * p.rank + p.channels;
  float* const at = p.partial + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * width;
  float* const bias = at + 3 * matrix;
  return {{at, at + matrix, at + 2 * matrix},
          {bias, bias + p.rank},
          bias + 2 * p.rank,
          bias + 2 * p.rank + p.channels};
}

// matrix[rank i][channel] += sum over the tile's pixels of factors[i] and image's channel.
template <int PX, class Image>
SM_DEVICE void add_products(const ExpertsParams& p, const Chosen& chosen, const float* factors, Image image,
                            float* staged, float* matrix) {
  constexpr int kPixels = 32 * PX, kPitch = kPixels + 1;
  const int lane = lane_id();
  for (int first = 0; first < p.channels; first += 32) {
    for (int row = warp_id(); row < 32; row += kWarps) SM_UNROLL
    for (int q = 0; q < PX; ++q)
      staged[row * kPitch + 32 * q + lane] = first + row < p.channels ? image(first + row, q) : 0.0f;
    __syncthreads();
    for (int i = warp_id(); i < chosen.count; i += kWarps) {
      float sum = 0;
      for (int pixel = 0; pixel < kPixels; pixel += 4) {
        const float4 f = *reinterpret_cast<const float4*>(factors + i * kPixels + pixel);
        const float* v = staged + lane * kPitch + pixel;
        sum = fmaf(f.x, v[0], fmaf(f.y, v[1], fmaf(f.z, v[2], fmaf(f.w, v[3], sum))));
      }
      if (first + lane < p.channels) matrix[chosen.rank[i] * p.channels + first + lane] += sum;
    }
    __syncthreads();
  }
}

template <class T, int PX>
SM_DEVICE void experts_backward_kernel(const ExpertsParams& p) {
  SM_DYNAMIC_SHARED(shared);
  constexpr int kPixels = 32 * PX;
  const int size = p.rank * kPixels, lane = lane_id(), channels = p.channels;
  float* const db = reinterpret_cast<float*>(shared);  // [R, kPixels]: gradients of B x + b,
  float *const dc = db + size, *const bc = dc + size;  // of C k + c; scaled products
  float* const staged = bc + size;                     // [32, kPixels + 1]
  const Chosen chosen = choose(p, staged + 32 * (kPixels + 1));
  const Sums sums = sums_of(p);
  for (int tile = blockIdx.x; tile < (p.plane + kPixels - 1) / kPixels; tile += gridDim.x) {
    const Pixels<T, PX> x(p, p.x, tile), k(p, p.k, tile), grad(p, p.grad, tile);
    for (int i = warp_id(); i < chosen.count; i += kWarps) {
      const int rank = chosen.rank[i];
      float b[1][PX] = {}, c[1][PX] = {}, back[1][PX] = {};
      multiply(b, channels, [&](int, int j) { return __ldg(p.b_weight + rank * channels + j); }, x);
      multiply(c, channels, [&](int, int j) { return __ldg(p.c_weight + rank * channels + j); }, k);
      multiply(back, channels, [&](int, int j) { return __ldg(p.a_weight + j * p.rank + rank); }, grad);
      const float bias_b = __ldg(p.b_bias + rank), bias_c = __ldg(p.c_bias + rank),
                  scale = chosen.scale[rank];
      float sum_b = 0, sum_c = 0, sum_scale = 0;
      SM_UNROLL
      for (int q = 0; q < PX; ++q) {
        const int at = i * kPixels + 32 * q + lane;
        const float left = b[0][q] + bias_b, right = c[0][q] + bias_c, scaled = scale * back[0][q];
        db[at] = scaled * right;
        dc[at] = scaled * left;
        bc[at] = scale * left * right;
        sum_b += scaled * right, sum_c += scaled * left, sum_scale += back[0][q] * left * right;
      }
      sum_b = warp_sum(sum_b), sum_c = warp_sum(sum_c), sum_scale = warp_sum(sum_scale);
      if (p.partial && lane == 0) {
        sums.bias[0][rank] += sum_b;
        sums.bias[1][rank] += sum_c;
        sums.scale[rank] += sum_scale;
      }
    }
    __syncthreads();
    for (int first = warp_id() * kChannelsAtOnce; first < channels; first += kWarps * kChannelsAtOnce) {
      float dx[kChannelsAtOnce][PX] = {}, dk[kChannelsAtOnce][PX] = {};
      const auto column = [&](const float* matrix, int m, int i) {
        return __ldg(matrix + chosen.rank[i] * channels + min(first + m, channels - 1));
      };
      if (p.out)
        multiply(
            dx, chosen.count, [&](int m, int i) { return column(p.b_weight, m, i); },
            [&](int i, int q) { return db[i * kPixels + 32 * q + lane]; });
      if (p.grad_k)
        multiply(
            dk, chosen.count, [&](int m, int i) { return column(p.c_weight, m, i); },
            [&](int i, int q) { return dc[i * kPixels + 32 * q + lane]; });
      SM_UNROLL
      for (int m = 0; m < kChannelsAtOnce; ++m) {
        if (first + m >= channels) break;
        float sum = 0;
        SM_UNROLL
        for (int q = 0; q < PX; ++q) {
          const float g = grad(first + m, q);
          sum += g;
          if (!x.inside(q)) continue;
          const size_t at = x.at(first + m, q);
          if (p.out) T::store(image_of<T>(p, p.out) + at, dx[m][q] + (p.weights ? g : 0.0f));
          if (p.grad_k) T::store(image_of<T>(p, p.grad_k) + at, dk[m][q]);
        }
        sum = warp_sum(sum);
        if (p.partial && lane == 0) sums.grad[first + m] += sum;
      }
    }
    if (p.partial) {
      add_products<PX>(p, chosen, db, x, staged, sums.matrix[0]);
      add_products<PX>(p, chosen, dc, k, staged, sums.matrix[1]);
      add_products<PX>(p, chosen, bc, grad, staged, sums.matrix[2]);
    }
    __syncthreads();
  }
}

}  // namespace

}  // namespace cuda
}  // namespace seemore

// Tiles of 128 pixels, and of 32, for many ranks.
SM_ENTRY(experts, ExpertsParams, (kThreads), experts_kernel<SM_TYPE, 4>)
SM_ENTRY(experts_small, ExpertsParams, (kThreads), experts_kernel<SM_TYPE, 1>)
// Two blocks to a multiprocessor: for a third one ptxas would spill (16 bit, sm_80).
SM_ENTRY(experts_backward, ExpertsParams, (kThreads, 2), experts_backward_kernel<SM_TYPE, 4>)
SM_ENTRY(experts_backward_small, ExpertsParams, (kThreads, 2), experts_backward_kernel<SM_TYPE, 1>)
