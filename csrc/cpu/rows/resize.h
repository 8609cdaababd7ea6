// Smaller maps: aggregation by four, and bilinear resizing.
#pragma once

#include "cpu/isa/gelu.h"
#include "cpu/rows/matrix.h"
#include "cpu/rows/operand.h"

namespace seemore {
namespace SM_ISA {

// Depthwise 4x4 with stride 4 and GELU: columns [x0, x1) of the output from four operand rows.  Works on
// whole vectors: `out` is written for up to VL columns too many, and `in` read.
template <class Op>
SM_INLINE void aggregate_row(const Depthwise& d, const Row in[4], const Row& out, int channels, int x0,
                             int x1) {
  for (int c = 0; c < channels; c += 2) {
    vf weight[2][4];
    for (int n = 0; n < 2; ++n)
      for (int i = 0; i < 4; ++i)
        for (int lane = 0; lane < VL; ++lane) weight[n][i][lane] = d.weight[(c + n) * 16 + 4 * i + lane % 4];
    for (int x = x0; x < x1; x += VL) {
      vf products[2][4];
      for (int v = 0; v < 4; ++v) {
        products[0][v] = products[1][v] = vf{};
        if (x + v * VL / 4 >= x1) continue;  // the row may end here, and with it the workspace
        for (int i = 0; i < 4; ++i) {
          vf value[2];
          Op::get(in[i], c, 4 * x + v * VL, value[0], value[1]);
          for (int n = 0; n < 2; ++n) products[n][v] += value[n] * weight[n][i];
        }
      }
      for (int n = 0; n < 2; ++n) {
        const vf(&p)[4] = products[n];
        const vf sum = add_pairs(add_pairs(p[0], p[1]), add_pairs(p[2], p[3]));
        store(out.at(c + n, x), gelu(sum + d.bias[c + n]));
      }
    }
  }
}

// Where bilinear resizing (align_corners=False) reads for output position i: low and low + 1, the second
// with this weight.
struct Tap2 {
  int low;
  float weight;
};

SM_INLINE Tap2 bilinear_tap(int i, int size_in, int size_out) {
  double source = (i + 0.5) * size_in / size_out - 0.5;
  if (source < 0) source = 0;
  int low = (int)source;
  if (low > size_in - 1) low = size_in - 1;
  return {low, low + 1 < size_in ? (float)(source - low) : 0.0f};
}

// Elements p[index[i]] for ascending indices that all lie less than VL past the first, as those of a map that
// is resized at least fourfold do.  Gathers are four times as slow.
SM_INLINE vf pick(const float* p, vi index) {
  const vf near = load(p + index[0]);
  return permute(near, index - index[0]);
}

}  // namespace SM_ISA
}  // namespace seemore
