// Depthwise 1 x k, then k x 1, then GELU if asked: a plane at a time, the second stripe right behind the
// first.
#pragma once

#include "cpu/isa/gelu.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"
#include "cpu/ops/op.h"
#include "cpu/ops/stencils.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// Both stripes of one channel: rows [y0, y1) of h, columns [0, width) (whole vectors).
//
// line(r): row r of the image, zeros around it; middle(r): where row r of the first stripe's result goes,
// which is zero outside the image; emit(r, x, vector) takes the results.  `table`: room for k + kStencilRows
// pointers.
template <class Line, class Middle, class Emit>
SM_INLINE void stripe_plane(const float* across, float across_bias, const float* down, float down_bias, int k,
                            int h, int y0, int y1, int width, const float** table, const Line& line,
                            const Middle& middle, const Emit& emit) {
  const int half = k / 2;
  auto first = [&]<int R>(Vectors<R>, int r0) SM_LAMBDA_INLINE {
    const float* lines[R];
    float* to[R];
    for (int r = 0; r < R; ++r) lines[r] = line(r0 + r, r), to[r] = middle(r0 + r);
    each_pair(width, [&]<int V>(Vectors<V>, int x) SM_LAMBDA_INLINE {
      vf acc[R][V];
      stencil_block<R, V>(
          across, 1, 1, k, across_bias, [&](int, int r) SM_LAMBDA_INLINE { return lines[r] + x - half; },
          acc);
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(to[r] + x + v * VL, acc[r][v]);
    });
  };
  auto second = [&]<int R>(Vectors<R>, int r0) SM_LAMBDA_INLINE {
    // Taps that fall outside the image for all R rows are left out.
    const int skip = r0 - half + R - 1 < 0 ? half - r0 - (R - 1) : 0;
    const int last = r0 + half < h ? k : k - (r0 + half - (h - 1));
    for (int i = skip; i < last + R - 1; ++i) table[i] = middle(r0 - half + i);
    each_pair(width, [&]<int V>(Vectors<V>, int x) SM_LAMBDA_INLINE {
      vf acc[R][V];
      column_block<R, V>(
          down + skip, 1, last - skip, down_bias, [&](int i) SM_LAMBDA_INLINE { return table[skip + i] + x; },
          acc);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) emit(r0 + r, x + v * VL, acc[r][v]);
    });
  };
  int next = y0 - half;  // the next row of the first stripe
  auto advance = [&](int end) {
    while (next < end) {
      if (next < 0 || next >= h) {
        memset(middle(next++), 0, sizeof(float) * width);
      } else if (next + kStencilRows <= (end < h ? end : h)) {
        first(Vectors<kStencilRows>(), next);
        next += kStencilRows;
      } else {
        first(Vectors<1>(), next++);
      }
    }
  };
  int y = y0;
  for (; y + kStencilRows <= y1; y += kStencilRows) {
    advance(y + kStencilRows + half);
    second(Vectors<kStencilRows>(), y);
  }
  for (; y < y1; ++y) {
    advance(y + 1 + half);
    second(Vectors<1>(), y);
  }
}

// Over the fields of an image.  w: both, each weight and bias.
struct Stripes {
  static constexpr int kWeights = 4;
  const Geometry& g;
  int c;
  Stencil across, down;
  Field middle, grad;
  const float** table;

  static constexpr Sizes<kWeights> sizes(int64_t c, int64_t k) { return sizes_of(c * k, c, c * k, c); }

  Stripes(Arena& arena, const Geometry& g_, int c_, int k, Weights w)
      : g(g_), c(c_), across{1, k, w[0], w[1]}, down{k, 1, w[2], w[3]} {
    arena.fields(g, c, middle, grad);
    table = arena.pointers(k + kStencilRows);
  }

  void forward(const Field& x, const Field& y) {
    const int k = across.columns;
    for (int i = 0; i < c; ++i)
      stripe_plane(
          across.weight + i * k, across.bias[i], down.weight + i * k, down.bias[i], k, g.h, 0, g.h,
          g.padded_w, table, [&](int r, int) SM_LAMBDA_INLINE { return x.at(i, r, 0); },
          [&](int r) SM_LAMBDA_INLINE { return middle.at(i, r, 0); },
          [&](int r, int at, vf v) SM_LAMBDA_INLINE { store(y.at(i, r, at), v); });
    mask(g, middle, c);
    mask(g, y, c);
  }

  // After forward(x, y); dy has a halo.
  void backward(const Field& x, const Field& dy, const Field& dx, Gradients d) {
    stencil_gradient(g, down, dy, middle, c, d[2], d[3]);
    apply_stencil(g, down, true, dy, grad, c);
    stencil_gradient(g, across, grad, x, c, d[0], d[1]);
    apply_stencil(g, across, true, grad, dx, c);
  }
};

struct StripedConv2d {
  static constexpr int kImages = 1;
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static auto sizes(const sm_op_params& p) { return Stripes::sizes(p.c, p.kernel); }
  static auto saved(const sm_op_params&) { return sizes_of(); }

  static constexpr int kStrip = 256;  // columns: a ring of 16 rows takes 16 KB, so it stays in the L1 cache
  static constexpr int kBand = 128;   // rows of a task; the k - 1 around them are computed again

  // A power of two: a row's place is a mask away.
  static int ring_rows(int k) {
    int rows = 2 * kStencilRows;
    while (rows < k - 1 + kStencilRows) rows *= 2;
    return rows;
  }

  static bool forward_all(const sm_op_params& p) {
    const int64_t bands = ceil_div(p.h, kBand), tasks = p.n * p.c * bands;
    const int k = (int)p.kernel, depth = ring_rows(k);
    const int line = round_up(kStrip + k, 16);
    const int64_t floats = (int64_t)kStencilRows * line + (int64_t)depth * kStrip;
    const int threads = useful_threads(p.threads, tasks);
    Scratch<float> memory(threads * floats);
    Scratch<const float*> tables((int64_t)threads * (k + kStencilRows));
    if (!memory.data || !tables.data) return false;
    run_tasks(p.threads, tasks, [&](int64_t task, int thread) {
      const int y0 = (int)(task % bands) * kBand, y1 = (int)least(y0 + kBand, p.h);
      float* const lines = memory.data + thread * floats;
      for (int x0 = 0; x0 < p.w; x0 += kStrip)
        (p.gelu ? strip<true> : strip<false>)(p, task / bands, y0, y1, x0, line, lines,
                                              lines + kStencilRows * line, depth,
                                              tables.data + (int64_t)thread * (k + kStencilRows));
    });
    return true;
  }

  const Geometry& g;
  int c;
  bool gelu_after;
  Stripes stripes;
  Field x, y, dx;
  Row room;

  StripedConv2d(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_), c((int)p.c), gelu_after(p.gelu), stripes(arena, g_, c, (int)p.kernel, w) {
    arena.fields(g, c, x, y, dx);
    room = arena.row(g, c);
  }
  void backward(const float* grad, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    stripes.forward(x, dx);
    read_image(g, grad, c, y);
    for (int r = 0; gelu_after && r < g.h; ++r) {
      gelu_row<true>(g, dx.row(r), room, c);
      multiply_row(g, y.row(r), dx.row(r), y.row(r), c);
    }
    stripes.backward(x, y, dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }

 private:
  // Rows y0 .. y1 of the columns from x0 of one plane.
  template <bool kGelu>
  static void strip(const sm_op_params& p, int64_t plane, int y0, int y1, int x0, int line, float* lines,
                    float* ring, int depth, const float** table) {
    const int k = (int)p.kernel, half = k / 2, w = (int)p.w;
    const int64_t channel = plane % p.c, offset = plane * p.h * p.w;
    const int width = x0 + kStrip < w ? kStrip : w - x0;
    // Columns of the image that a line holds; around them it is zero.
    const int from = x0 > half ? x0 - half : 0, to = x0 + width + half < w ? x0 + width + half : w;
    for (int i = 0; i < kStencilRows; ++i)
      memset(lines + i * line, 0, sizeof(float) * (round_up(width, VL) + k));
    auto read = [&](int r, int i) SM_LAMBDA_INLINE {
      float* const at = lines + i * line + half;
      const float* const source = p.inputs[0] + offset + (int64_t)r * w + from;
      memcpy(at + from - x0, source, sizeof(float) * (to - from));
      // The lines of the next rows come meanwhile.
      for (int x = 0; x < to - from; x += 16) __builtin_prefetch(source + kStencilRows * w + x);
      return at;
    };
    auto middle = [&](int r) SM_LAMBDA_INLINE { return ring + (r & (depth - 1)) * kStrip; };
    auto emit = [&](int r, int x, vf v) SM_LAMBDA_INLINE {
      if constexpr (kGelu) v = exact_gelu(v);
      float* const at = p.outputs[0] + offset + (int64_t)r * w + x0 + x;
      __builtin_prefetch(at + kStencilRows * w, 1);
      if (x + VL <= width)
        store(at, v);
      else
        TailLanes{width - x}.put(at, 0, v);
    };
    stripe_plane(p.inputs[1] + channel * k, p.inputs[2][channel], p.inputs[3] + channel * k,
                 p.inputs[4][channel], k, (int)p.h, y0, y1, round_up(width, VL), table, read, middle, emit);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
