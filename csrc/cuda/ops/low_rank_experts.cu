// low_rank_experts and the experts of mix_experts: A ((B x + b) * (C k + c)) + a, the chosen experts' ranks
// only.
//
// A block has 32 PX pixels of all channels: lane l takes pixels l, l + 32, .., warps share out ranks and
// channels.
#include "cuda/ops/experts.h"

namespace seemore {
namespace cuda {

#ifndef SM_HOST

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

// This block's place in `partial`.
SM_DEVICE float* place_of(const ExpertsParams& p, const ExpertsSums& sums) {
  return p.partial + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * sums.width;
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
  const ExpertsSums sums(p.rank, channels);
  float* const place = place_of(p, sums);
  if (p.partial)
    for (size_t i = threadIdx.x; i < sums.width; i += kThreads) place[i] = 0;
  const Chosen chosen = choose(p, staged + 32 * (kPixels + 1));
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
        place[sums.b_bias + rank] += sum_b;
        place[sums.c_bias + rank] += sum_c;
        place[sums.scale + rank] += sum_scale;
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
        if (p.partial && lane == 0) place[sums.grad + first + m] += sum;
      }
    }
    if (p.partial) {
      add_products<PX>(p, chosen, db, x, staged, place + sums.b);
      add_products<PX>(p, chosen, dc, k, staged, place + sums.c);
      add_products<PX>(p, chosen, bc, grad, staged, place + sums.a);
    }
    __syncthreads();
  }
}

}  // namespace

#else

namespace {

constexpr int kTile = 128, kSmallTile = 32;  // pixels

void start_kernel(Call& call, const ExpertsParams& p, int shares, bool backward) {
  const auto shared = [&](int pixels) {
    const size_t products = (size_t)p.rank * pixels, staged = 32 * (pixels + 1);
    return sizeof(float) * ((backward ? 3 * products + staged : products) + 2 * (p.rank + 1));
  };
  const bool small = shared(kTile) > (96 << 10);
  const std::string name = std::string("experts") + (backward ? "_backward" : "") + (small ? "_small" : "");
  call.start("low_rank_experts", name.c_str(), p, shares, call.params.n, shared(small ? kSmallTile : kTile));
}

}  // namespace

ExpertsParams experts_of(const Call& call, int first) {
  ExpertsParams p = {};
  p.x = call.in(0), p.k = call.in(1);
  p.b_weight = call.in(first), p.b_bias = call.in(first + 1);
  p.c_weight = call.in(first + 2), p.c_bias = call.in(first + 3);
  p.a_weight = call.in(first + 4), p.a_bias = call.in(first + 5);
  p.channels = call.channels;
  p.plane = call.plane;
  p.rank = (int)call.params.rank;
  p.experts = 1;
  p.first[1] = p.rank;
  if (const int64_t* ranks = call.params.ranks) {
    p.experts = (int)call.params.experts;
    for (int e = 0; e < p.experts; ++e) p.first[e + 1] = p.first[e] + (int)ranks[e];
  }
  return p;
}

void start_experts(Call& call, const ExpertsParams& p) { start_kernel(call, p, call.tiles(kTile), false); }

const float* start_experts_backward(Call& call, ExpertsParams p, bool sums, int* shares) {
  *shares = call.few(kTile, call.params.n);
  p.grad = call.grad();
  p.out = call.out(0), p.grad_k = call.out(1);
  if (sums) p.partial = call.floats(call.params.n * *shares * ExpertsSums(p.rank, p.channels).width);
  start_kernel(call, p, *shares, true);
  return p.partial;
}

void sum_experts(Call& call, const ExpertsParams& p, const float* sums, int64_t parts, int first,
                 bool own_bias) {
  const ExpertsSums at(p.rank, p.channels);
  const size_t rank = p.rank, c = p.channels;
  call.sum(sums, 1, parts, at.width)
      .piece(call.out(first), at.b, rank * c)
      .piece(call.out(first + 1), at.b_bias, rank)
      .piece(call.out(first + 2), at.c, rank * c)
      .piece(call.out(first + 3), at.c_bias, rank)
      .piece(call.out(first + 4), at.a, c, rank, 1, c)
      .piece(own_bias ? call.out(first + 5) : nullptr, at.grad, c);
}

void low_rank_experts(Call& call) {
  const ExpertsParams p = experts_of(call, 2);
  if (!call.params.backward) {
    ExpertsParams forward = p;
    forward.out = call.out(0);
    return start_experts(call, forward);
  }
  int shares;
  const float* sums = start_experts_backward(call, p, call.wants(2, 8), &shares);
  sum_experts(call, p, sums, call.params.n * shares, 2, true);
}

#endif

}  // namespace cuda
}  // namespace seemore

#ifndef SM_HOST

// Tiles of 128 pixels, and of 32, for many ranks. Blocks to a multiprocessor: for one more ptxas would spill
// (the small one on sm_100 and 120; backward 16 bit on sm_80).
SM_ENTRY(experts, ExpertsParams, (kThreads), experts_kernel<SM_TYPE, 4>)
SM_ENTRY(experts_small, ExpertsParams, (kThreads, 4), experts_kernel<SM_TYPE, 1>)
SM_ENTRY(experts_backward, ExpertsParams, (kThreads, 2), experts_backward_kernel<SM_TYPE, 4>)
SM_ENTRY(experts_backward_small, ExpertsParams, (kThreads, 2), experts_backward_kernel<SM_TYPE, 1>)

#endif
