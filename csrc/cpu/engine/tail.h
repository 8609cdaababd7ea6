// From the last group to pixels.
#pragma once

#include "cpu/engine/head.h"
#include "cpu/engine/worker.h"
#include "cpu/rows/norm.h"
#include "cpu/rows/winograd.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

// LN, second convolution, skip, upsampling convolution, PixelShuffle.
struct TailStage {
  static constexpr int kHalo = 2;  // columns: two convolutions
  using Conv = RowConv<Fp32>;
  static constexpr int kRows = Conv::kRows, kRing = 3 * kRows;  // a group of pixels needs three of features
  const Run& run;
  const Model& m;
  const Strip& s;
  HeadStage head;
  Row normal[Conv::kInputs], scratch[Conv::kProducts], skip[Conv::kRows], features[kRing];
  Row pixels[Conv::kRows];
  int next_normal, next_features;

  // For groups of rows from `first` on, a multiple of kRows.
  TailStage(Arena& arena, const Run& run_, const Strip& s_, int first)
      : run(run_), m(*run_.model), s(s_), head(arena, run_, s_, first - kRows > 0 ? first - kRows : 0) {
    arena.rows(normal, m.padded_dim, s);
    for (Row& row : scratch) row = arena.row(m.padded_dim, Conv::kWidth);
    arena.rows(skip, m.padded_dim, s);
    arena.rows(features, m.padded_dim, s);
    arena.rows(pixels, m.upsampler.m, s);
    next_features = first - kRows;
    next_normal = next_features - 1;
  }

  bool inside(int r) const { return r >= 0 && r < run.plan->area.h; }

  // The group of rows from r of conv_2(norm(x)) + skip.
  void feature_group(int r, const Plane& x) {
    for (; next_normal <= r + kRows; ++next_normal) {
      const Row& n = normal[slot(next_normal, Conv::kInputs)];
      if (!inside(next_normal)) {
        zero_row(n, m.padded_dim, s, 1);
        continue;
      }
      layer_norm<Fp32>(x.row(next_normal), n, m.dim, m.padded_dim, m.norm_weight, m.norm_bias, s.e0, s.e1);
      s.mask(n, m.padded_dim, 1);
    }
    Row in[Conv::kInputs], out[kRows];
    for (int i = 0; i < Conv::kInputs; ++i) in[i] = normal[slot(r - 1 + i, Conv::kInputs)];
    for (int i = 0; i < kRows; ++i) {
      out[i] = features[slot(r + i, kRing)];
      if (inside(r + i)) head.row(r + i, skip[i]);
    }
    if (inside(r))
      Conv::run<Epilogue::kResidual>(m.conv_2, in, scratch, m.padded_dim, s.e0, s.e1, out, skip,
                                     [](int, int) {});
    for (int i = 0; i < kRows; ++i) {
      if (inside(r + i))
        s.mask(out[i], m.padded_dim, 1);
      else
        zero_row(out[i], m.padded_dim, s, 1);
    }
  }

  // The group of rows from r of the low-resolution grid, as scale rows of pixels each; those in [r0, r1).
  void run_group(int r, int r0, int r1, const Plane& x) {
    for (; next_features <= r + kRows; next_features += kRows) feature_group(next_features, x);
    Row in[Conv::kInputs];
    for (int i = 0; i < Conv::kInputs; ++i) in[i] = features[slot(r - 1 + i, kRing)];
    Conv::run<Epilogue::kStore>(m.upsampler, in, scratch, m.padded_dim, s.x0, s.x1, pixels, pixels,
                                [](int, int) {});
    for (int i = 0; i < kRows; ++i)
      if (r + i >= r0 && r + i < r1) emit(r + i, pixels[i]);
  }

  // PixelShuffle, range and mean, for row r of the low-resolution grid.
  void emit(int r, const Row& in) const {
    if (run.image.u8)
      emit_as<uint8_t>(r, in);
    else
      emit_as<float>(r, in);
  }

  template <class T>
  void emit_as(int r, const Row& in) const {
    const Area& area = run.plan->area;
    const int scale = m.scale, from_x = s.x0 > area.x0 ? s.x0 : area.x0, to = s.x1 < area.x1 ? s.x1 : area.x1;
    const float gain = 1.0f / m.img_range;
    for (int c = 0; c < m.in_chans; ++c)
      for (int i = 0; i < scale; ++i)
        for (int j = 0; j < scale; ++j) {
          const float* from = in.at((c * scale + i) * scale + j, 0);
          const size_t row = ((size_t)c * (area.y1 - area.y0) + r - area.y0) * scale + i;
          T* out = static_cast<T*>(run.image.output) + row * (area.x1 - area.x0) * scale + j;
          for (int x = from_x; x < to; ++x)
            set(out[(size_t)(x - area.x0) * scale], from[x] * gain + m.mean[c]);
        }
  }

  static void set(float& out, float value) { out = value; }

  // Clamped, rounded to nearest even as torch.round does; NaN becomes 0.
  static void set(uint8_t& out, float value) {
    value *= 255.0f;
    value = value > 0 ? value : 0;
    value = value < 255 ? value : 255;
    out = (uint8_t)__builtin_rintf(value);
  }
};

// In fp32 even in bf16 mode: nothing after it evens out the last two convolutions' rounding.
inline void tail_pass(Worker& w) {
  const Band rows = w.band(w.inner(0), 2);
  if (rows.r0 >= rows.r1) return;
  for (int i = 0; i < strips(w.plan); ++i) {
    const Strip s = strip_at(w.plan, i, TailStage::kHalo);
    Arena arena = {w.scratch, 0};
    constexpr int kRows = RowConv<Fp32>::kRows;
    const int first = rows.r0 / kRows * kRows;
    TailStage tail(arena, w.run, s, first);
    for (int r = first; r < rows.r1 && !w.stopped(); r += kRows) tail.run_group(r, rows.r0, rows.r1, w.x);
  }
}

inline size_t tail_scratch(const Run& run) {
  const Strip s = strip_at(*run.plan, 0, TailStage::kHalo);
  Arena arena = {};
  TailStage stage(arena, run, s, 0);
  return arena.used;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
