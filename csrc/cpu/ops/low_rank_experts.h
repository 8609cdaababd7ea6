// One low-rank expert, A ((B x + b) * (C k + c)) + a, at each pixel: three small matrices chained in the L1
// cache.
#pragma once

#include "cpu/isa/dispatch.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"
#include "cpu/ops/routing.h"

namespace seemore {
namespace SM_ISA {

// emit(row, u, value) for G rows from `row` on; input channel c lies at in + c * stride.
//
// The prefetch asks for the next block but one: a plane per channel makes more streams of memory than the
// hardware follows by itself, and without it a whole expert takes 1.3 to 2 times as long.
template <int G, class Lanes, class Emit>
SM_INLINE void multiply_rows(const Linear& m, int64_t row, const float* in, int64_t stride, Lanes lanes,
                             const Emit& emit) {
  constexpr int U = Lanes::vectors;
  vf sum[G][U];
  for (int g = 0; g < G; ++g)
    for (int u = 0; u < U; ++u) sum[g][u] = splat(m.bias[row + g]);
  const float* weight = m.weight + row * m.columns;
  for (int64_t c = 0; c < m.columns; ++c) {
    vf value[U];
    for (int u = 0; u < U; ++u) {
      value[u] = lanes.get(in + c * stride, u);
      __builtin_prefetch(in + c * stride + (2 * U + u) * VL);
    }
    for (int g = 0; g < G; ++g)
      for (int u = 0; u < U; ++u) sum[g][u] += splat(weight[g * m.columns + c]) * value[u];
  }
  for (int g = 0; g < G; ++g)
    for (int u = 0; u < U; ++u) emit(row + g, u, sum[g][u]);
}

template <class Lanes, class Emit>
SM_INLINE void multiply(const Linear& m, const float* in, int64_t stride, Lanes lanes, const Emit& emit) {
  int64_t row = 0;
  for (; row + 4 <= m.rows; row += 4) multiply_rows<4>(m, row, in, stride, lanes, emit);
  for (; row + 2 <= m.rows; row += 2) multiply_rows<2>(m, row, in, stride, lanes, emit);
  for (; row < m.rows; ++row) multiply_rows<1>(m, row, in, stride, lanes, emit);
}

constexpr int kExpertVectors =
    2;  // with 4 rows of a matrix: 8 sums, which fits the 16 registers of v2 and v3

// Floats of scratch that one thread needs.
SM_INLINE int64_t expert_scratch(int64_t rank) { return rank * kExpertVectors * VL; }

// out [c, ...] = expert(x, k), plus x if `residual`, for `pixels` pixels; channels lie `plane` floats apart.
static void apply_expert(const Linear& b, const Linear& c, const Linear& a, const float* x, const float* k,
                         float* out, int64_t plane, int64_t pixels, bool residual, float* scratch) {
  over_vectors<kExpertVectors>(pixels, [&](int64_t i, auto lanes) {
    constexpr int U = decltype(lanes)::vectors;
    multiply(b, x + i, plane, lanes,
             [&](int64_t row, int u, vf v) { store(scratch + (row * U + u) * VL, v); });
    multiply(c, k + i, plane, lanes, [&](int64_t row, int u, vf v) {
      float* const at = scratch + (row * U + u) * VL;
      store(at, load(at) * v);
    });
    multiply(a, scratch, U * VL, WholeVectors<U>{}, [&](int64_t row, int u, vf v) {
      const int64_t at = row * plane + i;
      lanes.put(out + at, u, residual ? lanes.get(x + at, u) + v : v);
    });
  });
}

static bool low_rank_experts(const sm_low_rank_experts_params& p) {
  const int64_t plane = p.h * p.w, blocks = ceil_div(plane, kTaskPixels), tasks = p.n * blocks;
  const Linear b = {p.b_weight, p.b_bias, p.rank, p.c};
  const Linear c = {p.c_weight, p.c_bias, p.rank, p.c};
  const Linear a = {p.a_weight, p.a_bias, p.c, p.rank};
  const int64_t scratch_size = expert_scratch(p.rank);
  Scratch<float> scratch(useful_threads(p.threads, tasks) * scratch_size);
  if (!scratch.data) return false;
  run_tasks(p.threads, tasks, [&](int64_t task, int thread) {
    const int64_t first = task % blocks * kTaskPixels;
    const int64_t at = task / blocks * p.c * plane + first;
    apply_expert(b, c, a, p.x + at, p.k + at, p.out + at, plane, least(kTaskPixels, plane - first), false,
                 scratch.data + thread * scratch_size);
  });
  return true;
}

}  // namespace SM_ISA
}  // namespace seemore
