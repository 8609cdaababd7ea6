// The calibration at low resolution: aggregations after the first, and the map that the experts read.
#pragma once

#include "cpu/engine/worker.h"
#include "cpu/rows/depthwise.h"
#include "cpu/rows/gemm.h"
#include "cpu/rows/resize.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

// The further aggregations, of the area's inner part.  Starts and ends with a barrier.
inline void aggregate_pass(Worker& w, const Group& group) {
  w.wait();
  for (int level = 1; level < w.m.recursive; ++level) {
    // The first map is the whole area's.
    const int y = level == 1 ? w.area.y0 / 4 : 0, x = level == 1 ? w.area.x0 / 4 : 0;
    const Band rows = w.band({0, w.low[level].h}, 1);
    for (int r = rows.r0; r < rows.r1; ++r) {
      Row in[4];
      for (int i = 0; i < 4; ++i) {
        in[i] = w.low[level - 1].row(y + 4 * r + i);
        in[i].p += x;
      }
      aggregate_row<Fp32>(group.aggregate, in, w.low[level].row(r), w.m.padded_dim, 0, w.low[level].w);
      finish_low_row(w.low[level], r);
    }
    w.wait();
  }
}

// All columns of a low-resolution map.
inline Strip map_strip(int w) { return {0, round_up(w, kColumnAlign), 0, 0, w, kColumnAlign}; }

// The rest of the calibration at low resolution.  Ends with a barrier.
inline void calibrate_pass(Worker& w, const Group& group, const LowMap& last) {
  const Strip s = map_strip(last.w);
  Arena arena = {w.scratch, 0};
  const Row zero = arena.row(w.m.padded_dim, s), mixed = arena.row(w.m.padded_dim, s);
  zero_columns(zero, w.m.padded_dim, -kColumnAlign, s.x1 + kColumnAlign);
  const Band rows = w.band({0, last.h}, 1);
  for (int r = rows.r0; r < rows.r1; ++r) {
    const Row in[3] = {r > 0 ? last.row(r - 1) : zero, last.row(r), r + 1 < last.h ? last.row(r + 1) : zero};
    put_row<Fp32>(mixed, w.m.padded_dim, 0, s.x1,
                  [&]<int N>(vf(&acc)[2][N], int ch, int at)
                      SM_LAMBDA_INLINE { depthwise_3x3<Fp32>(group.low_conv, in, acc, ch, at); });
    matmul<Fp32, Epilogue::kStore>(group.low_proj, one_tap(mixed), 0, s.x1, w.map.row(r));
    finish_low_row(w.map, r);
  }
  w.wait();
}

inline size_t calibrate_scratch(const Model& m, const Plan& plan) {
  Arena arena = {};
  arena.row(2 * m.padded_dim, map_strip(plan.map_w));
  return arena.used;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
