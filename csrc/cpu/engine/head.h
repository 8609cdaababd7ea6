// The first convolution.
#pragma once

#include "cpu/engine/worker.h"
#include "cpu/rows/gemm.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

// The first convolution, a row at a time; the skip connection computes it again rather than keeping it.
struct HeadStage {
  const Run& run;
  const Strip& s;
  Row image[3];
  int next;  // first row not yet in the ring

  HeadStage(Arena& arena, const Run& run_, const Strip& s_, int first) : run(run_), s(s_), next(first - 1) {
    arena.rows(image, run.model->head.k, s);
  }

  void load_row(int r) {
    const Model& m = *run.model;
    const Row& row = image[slot(r, 3)];
    zero_columns(row, m.in_chans, s.e0 - kColumnAlign, s.e1 + kColumnAlign);
    if (r < 0 || r >= run.plan->area.h) return;
    const int from = s.e0 - 1 > 0 ? s.e0 - 1 : 0, to = s.e1 + 1 < s.w ? s.e1 + 1 : s.w;
    for (int c = 0; c < m.in_chans; ++c) {
      const size_t offset = ((size_t)c * run.plan->area.h + r) * s.w;
      const float mean = m.mean[c], range = m.img_range;
      float* out = row.at(c, 0);
      if (run.image.u8) {
        const uint8_t* in = static_cast<const uint8_t*>(run.image.input) + offset;
        for (int x = from; x < to; ++x) out[x] = (in[x] * (1.0f / 255) - mean) * range;
      } else {
        const float* in = static_cast<const float*>(run.image.input) + offset;
        for (int x = from; x < to; ++x) out[x] = (in[x] - mean) * range;
      }
    }
  }

  // Rows must be asked for in ascending order.
  void row(int r, const Row& out) {
    for (; next <= r + 1; ++next) load_row(next);
    const Row in[3] = {image[slot(r - 1, 3)], image[slot(r, 3)], image[slot(r + 1, 3)]};
    matmul<Fp32, Epilogue::kStore>(run.model->head, nine_taps(in), s.e0, s.e1, out);
  }
};

inline void head_pass(Worker& w) {
  const Band rows = w.band({0, w.area.h}, 1);
  for (int i = 0; i < strips(w.plan); ++i) {
    Strip s = strip_at(w.plan, i, 0);
    Arena arena = {w.scratch, 0};
    HeadStage head(arena, w.run, s, rows.r0);
    for (int r = rows.r0; r < rows.r1 && !w.stopped(); ++r) head.row(r, w.x.row(r));
  }
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
