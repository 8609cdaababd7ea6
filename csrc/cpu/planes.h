// Where the engine's data lies: stored planes, low-resolution maps, strips of columns.
#pragma once

#include "stages.h"

namespace seemore {
namespace SM_ISA {

// Rows of a stored plane set are [channels][padded_w], one row of the image after the other.
struct Plane {
  float* p;
  int channels, pitch;

  Row row(int r) const { return {p + (size_t)r * channels * pitch, pitch}; }
};

// A low-resolution map: rows as in Plane, with kColumnAlign zero columns on either side.
struct LowMap {
  float* p;
  int channels, h, w, pitch;

  Row row(int r) const { return {p + (size_t)r * channels * pitch + kColumnAlign, pitch}; }
};

constexpr int low_pitch(int w) { return round_up(w, kColumnAlign) + 2 * kColumnAlign; }

inline void finish_low_row(const LowMap& map, int r) {
  zero_columns(map.row(r), map.channels, -kColumnAlign, 0);
  zero_columns(map.row(r), map.channels, map.w, map.pitch - kColumnAlign);
}

inline Strip strip_at(const Plan& plan, int i, int halo) {
  const int extend = round_up(halo, kColumnAlign);
  Strip s;
  s.x0 = i * plan.strip;
  s.x1 = s.x0 + plan.strip < plan.padded_w ? s.x0 + plan.strip : plan.padded_w;
  s.e0 = s.x0 - extend > 0 ? s.x0 - extend : 0;
  s.e1 = s.x1 + extend < plan.padded_w ? s.x1 + extend : plan.padded_w;
  s.w = plan.area.w;
  s.pad = extend + kColumnAlign;
  return s;
}

inline int strips(const Plan& plan) { return (plan.padded_w + plan.strip - 1) / plan.strip; }

}  // namespace SM_ISA
}  // namespace seemore
