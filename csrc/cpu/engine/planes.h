// Where the engine's data lies: stored planes, low-resolution maps.
#pragma once

#include <string.h>

#include "cpu/engine/strip.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

// Rows of a stored plane set are [channels][padded_w], one row of the image after the other.
struct Plane {
  float* p;
  int channels, pitch;

  Row row(int r) const { return {p + (size_t)r * channels * pitch, pitch}; }
};

// A range of rows.
struct Band {
  int r0, r1;
};

// The residual stream as a pass finds it, though the pass overwrites it as it goes: rows of other threads
// come from copies made before the pass, and where strips to the left have overwritten columns of this
// thread's own rows, those come from copies that these strips have made.
struct StreamInput {
  Plane x;
  Band rows;           // this thread's
  Plane above, below;  // reach rows before and from there on; x where no other thread writes
  Plane kept[2];       // [H][channels][pitch]: the last columns of strips with even and odd numbers
  int reach;

  // Copies what other threads will overwrite; all threads must be done with it before any goes on.
  void copy_borders(int h) const {
    const size_t row = (size_t)x.channels * x.pitch * sizeof(float);
    for (int i = 0; i < reach; ++i) {
      const int up = rows.r0 - reach + i, down = rows.r1 + i;
      if (up >= 0) memcpy(above.row(i).p, x.row(up).p, row);
      if (down < h) memcpy(below.row(i).p, x.row(down).p, row);
    }
  }

  bool own(int r) const { return r >= rows.r0 && r < rows.r1; }

  // Row r for strip i; to be asked for once, before the strip overwrites it.
  InputRow take(int r, int i, const Strip& s) const {
    if (!own(r)) {
      const Row row = reach == 0    ? x.row(r)
                      : r < rows.r0 ? above.row(r - rows.r0 + reach)
                                    : below.row(r - rows.r1);
      return {row, row};
    }
    const Row row = x.row(r);
    const int halo = kept[0].pitch;
    Row left = kept[(i + 1) & 1].row(r);
    left.p -= s.x0 - halo;
    if (s.x1 < x.pitch) {
      const Row keep = kept[i & 1].row(r);
      for (int c = 0; c < x.channels; ++c)
        for (int j = 0; j < halo; j += kColumnAlign) {
          const int column = s.x1 - halo + j;
          if (column < 0) continue;
          memcpy(keep.at(c, j), (column < s.x0 ? left : row).at(c, column), sizeof(float) * kColumnAlign);
        }
    }
    return {row, left};
  }
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

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
