// The experts, backward: gradients of x and k, and the block's sums for those of weights.
#pragma once

#include "cuda/ops/experts.cuh"

namespace seemore {
namespace cuda {
namespace {

// The warp's sum of each v[i], in the lanes 32 i / N .. 32 (i + 1) / N - 1.
template <int N, int kDistance = 16>
SM_DEVICE float warp_sums(const float (&v)[N]) {
  float half[N > 1 ? N / 2 : 1];
  if constexpr (N == 1) {
    half[0] = v[0] + __shfl_xor_sync(kFullMask, v[0], kDistance);
  } else {
    const bool upper = (lane_id() & kDistance) != 0;
    SM_UNROLL
    for (int i = 0; i < N / 2; ++i) {
      const float own = upper ? v[i + N / 2] : v[i], other = upper ? v[i] : v[i + N / 2];
      half[i] = own + __shfl_xor_sync(kFullMask, other, kDistance);
    }
  }
  if constexpr (kDistance == 1)
    return half[0];
  else
    return warp_sums<(N > 1 ? N / 2 : 1), kDistance / 2>(half);
}

// One product of a tile's factors with an image, over its pixels: a gradient of weights.
struct Outer {
  const float* factors;  // [count, kPixels]
  const void* image;     // [N, C, plane]
  float* matrix;         // [R, C]
};

// Four ranks and four channels of it.
template <class T, int V>
SM_DEVICE void add_outer(const Experts<T, V>& e, const Outer& o, int tile, int group, int first) {
  const int lane = lane_id(), left = e.chosen.count - group * kRows, right = e.p.channels - first;
  float sums[kRows * kRows] = {};
  SM_UNROLL
  for (int part = 0; part < e.kParts; ++part) {
    const Pixels<T, V> pixels(e.p, tile * e.kPixels + part * 32 * V);
    const auto* image = pixels.of(o.image, first);
    float v[kRows][V];
    SM_UNROLL
    for (int i = 0; i < kRows; ++i) {
      load_run<T>(v[i], image);
      if (V == kRows || i + 1 < right) image += pixels.plane;
    }
    SM_UNROLL
    for (int m = 0; m < kRows; ++m) {
      float f[V];
      fetch_run(f, o.factors + (group * kRows + min(m, left - 1)) * e.kPixels + (part * 32 + lane) * V);
      SM_UNROLL
      for (int i = 0; i < kRows; ++i) SM_UNROLL
      for (int q = 0; q < V; ++q) sums[m * kRows + i] = fmaf(f[q], v[i][q], sums[m * kRows + i]);
    }
  }
  const float sum = warp_sums(sums);
  const int m = lane / 8, i = lane / 2 % kRows;
  if (lane % 2 == 0 && m < left && i < right)
    o.matrix[e.chosen.rank[group * kRows + m] * e.p.channels + first + i] += sum;
}

// The warp's sums over a tile's pixels of four rows: row(i, part, v) fetches V pixels.  The i-th is in lane 8
// i.
template <class T, int V, class Row>
SM_DEVICE float sum_rows(Row row) {
  float sums[kRows] = {};
  SM_UNROLL
  for (int part = 0; part < kPartsOf<V>; ++part) SM_UNROLL
  for (int i = 0; i < kRows; ++i) {
    float v[V];
    row(i, part, v);
    SM_UNROLL
    for (int q = 0; q < V; ++q) sums[i] += v[q];
  }
  return warp_sums(sums);
}

template <class T, int V>
SM_DEVICE void experts_backward_kernel(const ExpertsParams& p) {
  SM_DYNAMIC_SHARED(shared);
  const int size = p.rank * Experts<T, V>::kPixels, lane = lane_id();
  float* const db = reinterpret_cast<float*>(shared);  // [R, kPixels]: gradients of B x + b,
  float *const dc = db + size, *const bc = dc + size;  // of C k + c; scaled products
  const ExpertsSums at(p.rank, p.channels);
  float* const place = p.partial + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * at.width;
  if (p.partial)
    for (size_t i = threadIdx.x; i < at.width; i += kThreads) place[i] = 0;
  const Experts<T, V> e(p, bc + size);
  const int groups = (p.channels + kRows - 1) / kRows;
  for (int tile = blockIdx.x; tile < e.tiles(); tile += gridDim.x) {
    for (int job = warp_id(); job < e.groups() * e.kParts; job += kWarps) {
      const int group = job / e.kParts, part = job % e.kParts;
      const Pixels<T, V> pixels(p, tile * e.kPixels + part * 32 * V);
      int rank[kRows];
      e.ranks(group, rank);
      float b[kRows][V] = {}, c[kRows][V] = {}, back[kRows][V] = {};
      down<T, V>(b, p, rank, p.b_weight, pixels, p.x);
      down<T, V>(c, p, rank, p.c_weight, pixels, p.k);
      down_transposed<T, V>(back, p, rank, p.a_weight, pixels, p.grad);
      SM_UNROLL
      for (int m = 0; m < kRows; ++m) {
        const int i = group * kRows + m;
        if (i >= e.chosen.count) break;
        const float bias_b = __ldg(p.b_bias + rank[m]), bias_c = __ldg(p.c_bias + rank[m]);
        const float scale = pixels.inside ? e.chosen.scale[rank[m]] : 0.0f;
        SM_UNROLL
        for (int q = 0; q < V; ++q) {
          const float left = scale * (b[m][q] + bias_b), right = c[m][q] + bias_c;
          b[m][q] = scale * back[m][q] * right;
          c[m][q] = left * back[m][q];
          back[m][q] = left * right;
        }
        const int to = i * e.kPixels + (part * 32 + lane) * V;
        put_run(db + to, b[m]), put_run(dc + to, c[m]), put_run(bc + to, back[m]);
      }
    }
    __syncthreads();
    for (int job = warp_id(); job < groups * e.kParts; job += kWarps) {
      const int first = job / e.kParts * kRows, part = job % e.kParts;
      const Pixels<T, V> pixels(p, tile * e.kPixels + part * 32 * V);
      const auto store = [&](void* images, const float* weight, const float* factors, bool with_grad) {
        float out[kRows][V] = {};
        SM_UNROLL
        for (int m = 0; m < kRows; ++m)
          if (with_grad) load_run<T>(out[m], pixels.of(p.grad, min(first + m, p.channels - 1)));
        e.template up<false>(out, weight, first, factors + (part * 32 + lane) * V);
        SM_UNROLL
        for (int m = 0; m < kRows; ++m)
          if (first + m < p.channels) pixels.store(images, first + m, out[m]);
      };
      if (p.out) store(p.out, p.b_weight, db, p.weights != nullptr);
      if (p.grad_k) store(p.grad_k, p.c_weight, dc, false);
    }
    if (p.partial) {
      for (int job = warp_id(); job < 3 * groups; job += kWarps) {
        const int what = job % 3, first = job / 3 * kRows;
        const Outer outer = {what == 0   ? db
                             : what == 1 ? dc
                                         : bc,
                             what == 0   ? p.x
                             : what == 1 ? p.k
                                         : p.grad,
                             place + (what == 0   ? at.b
                                      : what == 1 ? at.c
                                                  : at.a)};
        for (int group = 0; group < e.groups(); ++group) add_outer(e, outer, tile, group, first);
      }
      for (int job = warp_id(); job < groups + 2 * e.groups(); job += kWarps) {  // gradients of biases
        const int first = (job < groups ? job : (job - groups) / 2) * kRows;
        if (job < groups) {
          const float sum = sum_rows<T, V>([&](int i, int part, float (&v)[V]) {
            const Pixels<T, V> pixels(p, tile * e.kPixels + part * 32 * V);
            load_run<T>(v, pixels.of(p.grad, min(first + i, p.channels - 1)));
            SM_UNROLL
            for (int q = 0; q < V; ++q) v[q] = pixels.inside ? v[q] : 0.0f;
          });
          if (lane % 8 == 0 && first + lane / 8 < p.channels) place[at.grad + first + lane / 8] += sum;
        } else {
          const bool second = (job - groups) % 2;
          const float sum = sum_rows<T, V>([&](int i, int part, float (&v)[V]) {
            const int row = min(first + i, e.chosen.count - 1);
            fetch_run(v, (second ? dc : db) + row * e.kPixels + (part * 32 + lane) * V);
          });
          if (lane % 8 == 0 && first + lane / 8 < e.chosen.count)
            place[(second ? at.c_bias : at.b_bias) + e.chosen.rank[first + lane / 8]] += sum;
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace cuda
}  // namespace seemore
