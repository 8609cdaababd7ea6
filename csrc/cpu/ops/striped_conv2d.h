// Depthwise 1 x k, then k x 1: a ring of k rows of the first result, one plane and column strip at a time.
#pragma once

#include "cpu/isa/dispatch.h"
#include "cpu/isa/gelu.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"

namespace seemore {
namespace SM_ISA {

constexpr int64_t kStrip = 256;  // columns: a ring of 11 rows takes 11 KB, so it stays in the L1 cache
constexpr int64_t kBand = 128;   // rows of a task; the k - 1 rows above and below are computed again
constexpr int kUnroll = 4;       // vectors in flight, to hide the latency of the chain of multiply-adds
constexpr int64_t kBlock = kUnroll * VL;
static_assert(kStrip % kBlock == 0, "blocks fill a strip");

// bias + sum_j weight[j] * row(j)[i], j = 0 .. k - 1, handed to emit(i, vector) for `blocks` whole blocks.
template <class Row, class Emit>
SM_INLINE void filter_row(const float* weight, float bias, int64_t k, int64_t blocks, const Row& row,
                          const Emit& emit) {
  for (int64_t i = 0; i < blocks * kBlock; i += kBlock) {
    vf sum[kUnroll];
    for (int u = 0; u < kUnroll; ++u) sum[u] = splat(bias);
    for (int64_t j = 0; j < k; ++j) {
      const vf tap = splat(weight[j]);
      const float* from = row(j) + i;
      for (int u = 0; u < kUnroll; ++u) sum[u] += tap * load(from + u * VL);
    }
    for (int u = 0; u < kUnroll; ++u) emit(i + u * VL, sum[u]);
  }
}

// Floats of the padded row, rounded so that the ring's rows start on cache lines.
SM_INLINE int64_t ring_offset(int64_t k) { return ceil_div(kStrip + k, 16) * 16; }

// One plane's rows y0 .. y1 and columns x0 .. x0 + width. `scratch`: a padded row, then a ring of k rows.
static void stripe_tile(const sm_striped_conv2d_params& p, const float* plane, float* out, int64_t channel,
                        int64_t y0, int64_t y1, int64_t x0, int64_t width, float* scratch) {
  const int64_t k = p.k, pad = k / 2, blocks = ceil_div(width, kBlock);
  float* const line = scratch;
  float* const ring = scratch + ring_offset(k);
  // Columns of `line` that exist in the image; the others are padding.
  const int64_t from = x0 < pad ? pad - x0 : 0;
  const int64_t to = least(pad + width + pad, p.w - x0 + pad);
  memset(line, 0, sizeof(float) * (kStrip + k));

  int64_t next = y0 < pad ? 0 : y0 - pad;  // the next row to enter the ring
  for (int64_t y = y0; y < y1; ++y) {
    for (const int64_t last = least(y + pad, p.h - 1); next <= last; ++next) {
      memcpy(line + from, plane + next * p.w + x0 + from - pad, sizeof(float) * (to - from));
      float* const middle = ring + next % k * kStrip;
      filter_row(
          p.w1 + channel * k, p.b1[channel], k, blocks, [&](int64_t j) { return line + j; },
          [&](int64_t i, vf v) { store(middle + i, v); });
    }
    // Rows outside the image are zero, not b1: leave their taps out.
    const int64_t first = y < pad ? pad - y : 0;
    const int64_t taps = least(k, p.h - y + pad) - first;
    const int64_t top = (y - pad + first) % k;  // the first tap's row in the ring
    float* const to_row = out + y * p.w + x0;
    filter_row(
        p.w2 + channel * k + first, p.b2[channel], taps, blocks,
        [&](int64_t j) { return ring + (top + j < k ? top + j : top + j - k) * kStrip; },
        [&](int64_t i, vf v) {
          if (p.gelu) v = gelu(v);
          if (i + VL <= width) {
            store(to_row + i, v);
          } else if (i < width) {
            TailLanes{(int)(width - i)}.put(to_row + i, 0, v);
          }
        });
  }
}

static bool striped_conv2d(const sm_striped_conv2d_params& p) {
  const int64_t bands = ceil_div(p.h, kBand), strips = ceil_div(p.w, kStrip);
  const int64_t tasks = p.n * p.c * bands;
  const int64_t scratch_size = ring_offset(p.k) + p.k * kStrip;
  Scratch<float> scratch(useful_threads(p.threads, tasks) * scratch_size);
  if (!scratch.data) return false;
  run_tasks(p.threads, tasks, [&](int64_t task, int thread) {
    const int64_t plane = task / bands, y0 = task % bands * kBand;
    for (int64_t s = 0; s < strips; ++s) {
      const int64_t x0 = s * kStrip;
      stripe_tile(p, p.x + plane * p.h * p.w, p.out + plane * p.h * p.w, plane % p.c, y0,
                  least(y0 + kBand, p.h), x0, least(kStrip, p.w - x0), scratch.data + thread * scratch_size);
    }
  });
  return true;
}

}  // namespace SM_ISA
}  // namespace seemore
