// The network's two ends: the first convolution, and from the last group to pixels.
#pragma once

#include "planes.h"

namespace seemore {
namespace SM_ISA {

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
    if (r < 0 || r >= run.plan->h) return;
    const int from = s.e0 - 1 > 0 ? s.e0 - 1 : 0, to = s.e1 + 1 < s.w ? s.e1 + 1 : s.w;
    for (int c = 0; c < m.in_chans; ++c) {
      const size_t offset = ((size_t)c * run.plan->h + r) * s.w;
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

// LN, second convolution, skip, upsampling convolution, PixelShuffle.
template <class Op>
struct TailStage {
  const Run& run;
  const Model& m;
  const Strip& s;
  HeadStage head;
  Row normal[4], scratch[PairConv<Op>::kRows + 1], skip[2], sum[2], features[6], pixels[2];
  int next_normal, next_features;

  TailStage(Arena& arena, const Run& run_, const Strip& s_, int first)
      : run(run_), m(*run_.model), s(s_), head(arena, run_, s_, first - 2 > 0 ? first - 2 : 0) {
    const int operand = operand_channels<Op>(m.padded_dim);
    arena.rows(normal, operand, s);
    for (int i = 0; i < PairConv<Op>::kRows; ++i) scratch[i] = arena.row(m.padded_dim, s);
    arena.rows(skip, m.padded_dim, s);
    arena.rows(sum, m.padded_dim, s);
    arena.rows(features, operand, s);
    arena.rows(pixels, m.upsampler.m, s);
    next_features = first - 2;
    next_normal = next_features - 1;
  }

  bool inside(int r) const { return r >= 0 && r < run.plan->h; }

  // Rows r and r + 1 (r even) of conv_2(norm(x)) + skip.
  void feature_pair(int r, const Plane& x) {
    const int operand = operand_channels<Op>(m.padded_dim);
    for (; next_normal <= r + 2; ++next_normal) {
      const Row& n = normal[slot(next_normal, 4)];
      if (!inside(next_normal)) {
        zero_row(n, operand, s, 1);
        continue;
      }
      layer_norm<Op>(x.row(next_normal), n, m.dim, m.padded_dim, m.norm_weight, m.norm_bias, s.e0, s.e1);
      s.mask(n, operand, 1);
    }
    if (inside(r)) {
      head.row(r, skip[0]);
      if (inside(r + 1)) head.row(r + 1, skip[1]);
      const Row in[4] = {normal[slot(r - 1, 4)], normal[slot(r, 4)], normal[slot(r + 1, 4)],
                         normal[slot(r + 2, 4)]};
      PairConv<Op>::template run<Epilogue::kResidual>(m.conv_2, in, scratch, m.padded_dim, s.e0, s.e1, sum, skip);
    }
    for (int i = 0; i < 2; ++i) {
      const Row& f = features[slot(r + i, 6)];
      if (!inside(r + i)) {
        zero_row(f, operand, s, 1);
        continue;
      }
      copy_row<Op>(sum[i], f, m.padded_dim, s.e0, s.e1);
      s.mask(f, operand, 1);
    }
  }

  // Rows r and r + 1 (r even) of the low-resolution grid, as scale rows of pixels each.
  void run_pair(int r, int r1, const Plane& x) {
    for (; next_features <= r + 2; next_features += 2) feature_pair(next_features, x);
    const Row in[4] = {features[slot(r - 1, 6)], features[slot(r, 6)], features[slot(r + 1, 6)],
                       features[slot(r + 2, 6)]};
    PairConv<Op>::template run<Epilogue::kStore>(m.upsampler, in, scratch, m.padded_dim, s.x0, s.x1, pixels,
                                                 pixels);
    emit(r, pixels[0]);
    if (r + 1 < r1) emit(r + 1, pixels[1]);
  }

  void emit(int r, const Row& in) const {
    const int scale = m.scale, to = s.x1 < s.w ? s.x1 : s.w;
    const size_t out_w = (size_t)s.w * scale;
    for (int c = 0; c < m.in_chans; ++c)
      for (int i = 0; i < scale; ++i) {
        const float* from[1] = {in.at((c * scale + i) * scale, 0)};
        const size_t offset = (((size_t)c * run.plan->h + r) * scale + i) * out_w;
        const float mean = m.mean[c], gain = 1.0f / m.img_range;
        for (int j = 0; j < scale; ++j) {
          const float* p = from[0] + j * in.pitch;
          if (run.image.u8) {
            uint8_t* out = static_cast<uint8_t*>(run.image.output) + offset + j;
            for (int x = s.x0; x < to; ++x) out[(size_t)x * scale] = to_byte(p[x] * gain + mean);
          } else {
            float* out = static_cast<float*>(run.image.output) + offset + j;
            for (int x = s.x0; x < to; ++x) out[(size_t)x * scale] = p[x] * gain + mean;
          }
        }
      }
  }

  // Clamped, rounded to nearest even as torch.round does; NaN becomes 0.
  static uint8_t to_byte(float v) {
    v = v * 255.0f;
    v = v > 0 ? v : 0;
    v = v < 255 ? v : 255;
    return (uint8_t)__builtin_rintf(v);
  }
};

}  // namespace SM_ISA
}  // namespace seemore
