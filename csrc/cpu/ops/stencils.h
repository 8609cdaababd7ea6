// Depthwise stencils over the pixels of one image, and their gradients.
#pragma once

#include "cpu/ops/field.h"
#include "cpu/ops/matrices.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// R rows of V vectors: start + the taps of a `rows` x `columns` stencil in order, the weights `step` apart
// (-1: turned about).  at(i, r): where row i of the stencil's taps begins for row r of the result.
template <int R, int V, class At>
SM_INLINE void stencil_block(const float* weight, int step, int rows, int columns, float start, const At& at,
                             vf (&result)[R][V]) {
  vf acc[R][V];
  SM_UNROLL(4)
  for (int r = 0; r < R; ++r) {
    SM_UNROLL(2)
    for (int v = 0; v < V; ++v) acc[r][v] = splat(start);
  }
  for (int i = 0; i < rows; ++i) {
    const float* from[R];
    SM_UNROLL(4)
    for (int r = 0; r < R; ++r) from[r] = at(i, r);
    for (int j = 0; j < columns; ++j, weight += step) {
      const vf tap = splat(*weight);
      SM_UNROLL(4)
      for (int r = 0; r < R; ++r) {
        SM_UNROLL(2)
        for (int v = 0; v < V; ++v) acc[r][v] += load(from[r] + v * VL) * tap;
        ++from[r];
      }
    }
  }
  SM_UNROLL(4)
  for (int r = 0; r < R; ++r) {
    SM_UNROLL(2)
    for (int v = 0; v < V; ++v) result[r][v] = acc[r][v];
  }
}

// The same for `rows` taps in a column, every row of the image loaded once: row(i) is where its row i begins,
// from the first tap's for the first row of the result on.
template <int R, int V, class Rows>
SM_INLINE void column_block(const float* weight, int step, int taps, float start, const Rows& row,
                            vf (&result)[R][V]) {
  if (taps < R)
    return stencil_block<R, V>(
        weight, step, taps, 1, start, [&](int i, int r) SM_LAMBDA_INLINE { return row(i + r); }, result);
  vf acc[R][V];
  SM_UNROLL(4)
  for (int r = 0; r < R; ++r) {
    SM_UNROLL(2)
    for (int v = 0; v < V; ++v) acc[r][v] = splat(start);
  }
  // tap[r]: the one of row r of the result that meets the row at hand.
  vf tap[R];
  auto add = [&]<int kFrom, int kTo>(Vectors<kFrom>, Vectors<kTo>, int i) SM_LAMBDA_INLINE {
    const float* const from = row(i);
    SM_UNROLL(2)
    for (int v = 0; v < V; ++v) {
      const vf value = load(from + v * VL);
      SM_UNROLL(4)
      for (int r = kFrom; r < kTo; ++r) acc[r][v] += value * tap[r];
    }
  };
  auto shift = [&]() SM_LAMBDA_INLINE {
    SM_UNROLL(4)
    for (int r = R - 1; r > 0; --r) tap[r] = tap[r - 1];
  };
  auto begin = [&]<int kRow>(Vectors<kRow>) SM_LAMBDA_INLINE {
    if constexpr (kRow < R - 1) {
      if (kRow > 0) shift();
      tap[0] = splat(weight[kRow * step]);
      add(Vectors<0>(), Vectors<kRow + 1>(), kRow);
    }
  };
  begin(Vectors<0>());
  begin(Vectors<1>());
  begin(Vectors<2>());
  for (int i = R - 1; i < taps; ++i) {
    shift();
    tap[0] = splat(weight[i * step]);
    add(Vectors<0>(), Vectors<R>(), i);
  }
  auto end = [&]<int kRow>(Vectors<kRow>) SM_LAMBDA_INLINE {
    if constexpr (kRow < R) {
      shift();
      add(Vectors<kRow>(), Vectors<R>(), taps - 1 + kRow);
    }
  };
  end(Vectors<1>());
  end(Vectors<2>());
  end(Vectors<3>());
  SM_UNROLL(4)
  for (int r = 0; r < R; ++r) {
    SM_UNROLL(2)
    for (int v = 0; v < V; ++v) result[r][v] = acc[r][v];
  }
}

// Calls f(Vectors<n>(), x) over [0, width), a multiple of VL: two vectors at a time, then one.
template <class F>
SM_INLINE void each_pair(int width, const F& f) {
  int x = 0;
  for (; x + 2 * VL <= width; x += 2 * VL) f(Vectors<2>(), x);
  for (; x < width; x += VL) f(Vectors<1>(), x);
}

constexpr int kStencilRows = 4;  // at once (column_block counts on it): with two vectors, chains enough to
                                 // hide a multiply-add's latency

// `rows` x `columns` taps around the pixel; weight [channels, rows * columns].
struct Stencil {
  int rows, columns;
  const float* weight;
  const float* bias;

  int taps() const { return rows * columns; }
};

// out = stencil(in) + bias; or with `transposed` (weights turned about, no bias) its gradient.
inline void apply_stencil(const Geometry& g, const Stencil& s, bool transposed, const Field& in,
                          const Field& out, int channels) {
  const int taps = s.taps(), step = transposed ? -1 : 1;
  for (int c = 0; c < channels; ++c) {
    const float* const weight = s.weight + c * taps + (transposed ? taps - 1 : 0);
    const float start = transposed ? 0.0f : s.bias[c];
    auto block = [&]<int R>(Vectors<R>, int r0) SM_LAMBDA_INLINE {
      each_pair(g.padded_w, [&]<int V>(Vectors<V>, int x) SM_LAMBDA_INLINE {
        vf acc[R][V];
        if (s.columns == 1)
          column_block<R, V>(
              weight, step, s.rows, start,
              [&](int i) SM_LAMBDA_INLINE { return in.at(c, r0 + i - s.rows / 2, x); }, acc);
        else
          stencil_block<R, V>(
              weight, step, s.rows, s.columns, start,
              [&](int i, int r)
                  SM_LAMBDA_INLINE { return in.at(c, r0 + r + i - s.rows / 2, x - s.columns / 2); },
              acc);
        for (int r = 0; r < R; ++r)
          for (int v = 0; v < V; ++v) store(out.at(c, r0 + r, x + v * VL), acc[r][v]);
      });
    };
    int r = 0;
    for (; r + kStencilRows <= g.h; r += kStencilRows) block(Vectors<kStencilRows>(), r);
    for (; r < g.h; ++r) block(Vectors<1>(), r);
  }
  mask(g, out, channels);
}

// Gradients of a stencil's weight and bias.
inline void stencil_gradient(const Geometry& g, const Stencil& s, const Field& grad, const Field& in,
                             int channels, float* weight, float* bias) {
  const int taps = s.taps();
  auto of_weight = [&]<int kTaps>(Vectors<kTaps>) SM_LAMBDA_INLINE {
    for (int c = 0; c < channels; ++c)
      correlate<Fp32, 1, kTaps>(
          g, 1, grad.stride, [&](int) { return grad.at(c, 0, 0); }, 1, taps, in.stride,
          [&](int tap) { return in.at(c, tap / s.columns - s.rows / 2, tap % s.columns - s.columns / 2); },
          [&](int) { return weight + c * taps; });
  };
  // The network's own numbers of taps at once: fewer sums than registers would wait for each other.
  if (taps <= 3)
    of_weight(Vectors<3>());
  else if (taps == 9)
    of_weight(Vectors<9>());
  else
    of_weight(Vectors<11>());
  bias_gradient(g, grad, channels, bias);
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
