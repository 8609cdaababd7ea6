// Strips of columns, the row buffers of a stage in them, and the rows that it reads.
#pragma once

#include "cpu/engine/plan.h"
#include "cpu/rows/operand.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

using namespace seemore::engine;  // what both sides of the ISA see

// Columns a stage computes: its results for [x0, x1), what their halo needs over [e0, e1).
struct Strip {
  int x0, x1, e0, e1;
  int w;    // columns of the image; those beyond are padding up to whole vectors
  int pad;  // columns that row buffers have on either side of [x0, x1)

  // The column of [x0, x1] nearest to x.
  SM_INLINE int inner(int x) const { return x < x0 ? x0 : x < x1 ? x : x1; }

  // Zeroes `halo` columns outside the image, as far as the row has them, if this strip reaches its edges.
  SM_INLINE void mask(const Row& row, int channels, int halo) const {
    const int first = x0 - pad, end = x1 + pad;
    if (e0 == 0) zero_columns(row, channels, first < -halo ? -halo : first, 0);
    if (w < e1 + halo) zero_columns(row, channels, w, end < e1 + halo ? end : e1 + halo);
  }
};

// Hands out row buffers; with a null base it only counts.
struct Arena {
  float* base;
  size_t used;

  Row row(int channels, const Strip& s) {
    const int pitch = s.x1 - s.x0 + 2 * s.pad;
    const Row r = {base ? base + used + s.pad - s.x0 : nullptr, pitch};
    used += (size_t)channels * pitch;
    return r;
  }
  Row row(int channels, int columns) {
    const Row r = {base ? base + used : nullptr, columns};
    used += (size_t)channels * columns;
    return r;
  }
  Row chunk(int channels) { return row(channels, kChunk); }
  template <int N>
  void rows(Row (&out)[N], int channels, const Strip& s) {
    for (int i = 0; i < N; ++i) out[i] = row(channels, s);
  }
};

// A row that a stage reads: from column x0 of its strip on in `row`, before it in `left`.
struct InputRow {
  Row row, left;
};

// Calls f(row, from, to) for the chunks of [e0, e1), each in the one of the two that has it.
template <class F>
SM_INLINE void each_input_chunk(const Strip& s, const InputRow& in, F f) {
  for (int from = s.e0; from < s.e1;) {
    const bool left = from < s.x0;
    const int end = left ? s.x0 : s.e1, to = from + kChunk < end ? from + kChunk : end;
    f(left ? in.left : in.row, from, to);
    from = to;
  }
}

SM_INLINE void zero_row(const Row& row, int channels, const Strip& s, int halo) {
  zero_columns(row, channels, s.e0 - halo, s.e1 + halo);
}

constexpr int slot(int r, int depth) { return (r % depth + depth) % depth; }

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

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
