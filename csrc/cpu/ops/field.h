// One image in the memory of one thread, for the differentiable operators: rows with margins of zeros.
//
// Images are what threads share out.  A few fields of a patch that networks are trained on fit the L2 cache,
// a few rows the L1 cache: what needs no neighbours is chained row by row, and only stencils, sums over the
// image and routing begin a new pass.  What a stencil reads is 0 outside the image.
#pragma once

#include "cpu/isa/gelu.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"
#include "cpu/rows/matrix.h"
#include "cpu/rows/operand.h"
#include "cpu/rows/row.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

struct Geometry {
  int h, w;
  int padded_w;  // columns computed, whole vectors of any ISA
  int margin;    // zero columns on either side; the right one of a channel is the left one of the next
  int halo;      // zero rows above and below, of fields that have them

  // `reach`: how far from a pixel the stencils read.
  Geometry(int64_t h_, int64_t w_, int64_t reach)
      : h((int)h_),
        w((int)w_),
        padded_w(round_up(w, kColumnAlign)),
        margin(round_up((int)reach > 0 ? (int)reach : 1, kColumnAlign)),
        halo((int)reach > 0 ? (int)reach : 1) {}

  int pitch() const { return padded_w + margin; }
};

// [h rows][channels][pitch]; channels are padded to a multiple of 4.
struct Field {
  float* p;  // row 0, channel 0, column 0
  ptrdiff_t pitch, stride;

  SM_INLINE float* at(int c, int r, int x) const { return p + r * stride + c * pitch + x; }
  SM_INLINE Row row(int r) const { return {p + r * stride, pitch}; }
};

// Rows without margins, for what no stencil reads: [h][channels, padded][padded_w].
inline size_t rows_floats(const Geometry& g, int channels) {
  return (size_t)g.h * round_up(channels, 4) * g.padded_w;
}
inline Field rows_at(const Geometry& g, int channels, const float* memory) {
  return {const_cast<float*>(memory), g.padded_w, (ptrdiff_t)round_up(channels, 4) * g.padded_w};
}

// Hands out parts of a block, undefined but for the zeros around fields; without a block, counts how much is
// needed.
struct Arena {
  float* base;
  Arena* images = nullptr;   // from which fields of images are taken instead: all of one size
  Arena* weights = nullptr;  // from which `pack` takes its memory instead
  bool fresh = true;         // false: another handed out the same parts, whose contents stay
  size_t used = 0, most = 0;

  float* floats(size_t count) {
    float* const found = base ? base + used : nullptr;
    used += (count + 15) / 16 * 16;
    if (used > most) most = used;
    return found;
  }

  const float** pointers(size_t count) { return reinterpret_cast<const float**>(floats(2 * count)); }
  double* doubles(size_t count) { return reinterpret_cast<double*>(floats(2 * count)); }

  // Zeros around it, which whoever fills it leaves alone.
  Field field(const Geometry& g, int channels) {
    const ptrdiff_t pitch = g.pitch(), stride = pitch * round_up(channels, 4);
    const size_t count = (g.h + 2 * g.halo) * stride + 2 * g.margin;
    float* const start = floats(count);
    if (start && fresh) memset(start, 0, sizeof(float) * count);
    return {start ? start + g.halo * stride + g.margin : nullptr, pitch, stride};
  }

  // A field whose pixels are all 0.
  Field zeros(const Geometry& g) {
    float* const row = floats(g.padded_w);
    if (row && fresh) memset(row, 0, sizeof(float) * g.padded_w);
    return {row, 0, 0};
  }

  // One row of a field, without its margins.
  Row row(const Geometry& g, int channels) {
    return {floats((size_t)g.padded_w * round_up(channels, 4)), g.padded_w};
  }

  template <class... F>
  void fields(const Geometry& g, int channels, F&... all) {
    ((all = images->field(g, channels)), ...);
  }

  // What make(*this) gives, whose fields' places are free for others: for those not in use at the same time.
  template <class F>
  auto lend_fields(const F& make) {
    const size_t before = images->used;
    auto made = make(*this);
    images->used = before;
    return made;
  }
};

// A row of a plane: too short for a call of memcpy.
SM_INLINE void copy_pixels(const float* from, float* to, int count) {
  int x = 0;
  for (; x + VL <= count; x += VL) store(to + x, load(from + x));
  for (; x < count; ++x) to[x] = from[x];
}

inline void read_image(const Geometry& g, const float* planes, int channels, const Field& to) {
  for (int r = 0; r < g.h; ++r) {
    for (int c = 0; c < channels; ++c) copy_pixels(planes + ((size_t)c * g.h + r) * g.w, to.at(c, r, 0), g.w);
    zero_columns(to.row(r), channels, g.w, g.padded_w);
  }
}

// Row r of an image.
inline void write_row(const Geometry& g, const Row& from, int channels, float* planes, int r) {
  for (int c = 0; c < channels; ++c) copy_pixels(from.at(c, 0), planes + ((size_t)c * g.h + r) * g.w, g.w);
}

inline void write_image(const Geometry& g, const Field& from, int channels, float* planes) {
  for (int r = 0; r < g.h; ++r) write_row(g, from.row(r), channels, planes, r);
}

// Zeroes what lies right of the image.
inline void mask(const Geometry& g, const Field& field, int channels) {
  for (int r = 0; r < g.h; ++r) zero_columns(field.row(r), channels, g.w, g.padded_w);
}

// f(c, x) at every vector of a row.
template <class F>
SM_INLINE void each_in_row(const Geometry& g, int channels, const F& f) {
  for (int c = 0; c < channels; ++c)
    for (int x = 0; x < g.padded_w; x += VL) f(c, x);
}

// f(c, r, x) at every vector.
template <class F>
SM_INLINE void each_vector(const Geometry& g, int channels, const F& f) {
  for (int r = 0; r < g.h; ++r) each_in_row(g, channels, [&](int c, int x) SM_LAMBDA_INLINE { f(c, r, x); });
}

// What follows is of one row, to `out` as operands of products: in fp32 the row's channels as they are, else
// units in the places of the first of them, so that `out` may be what it is made from.

// Rows of units that hold channels.
template <class Operand>
constexpr int units(int channels) {
  return (channels + Operand::kPack - 1) / Operand::kPack;
}

// f(c, x): a vector of channel c.
template <class Operand, class F>
SM_INLINE void fill_row(const Geometry& g, const Row& out, int channels, const F& f) {
  if constexpr (Operand::kPack == 1)
    each_in_row(g, channels, [&](int c, int x) SM_LAMBDA_INLINE { store(out.at(c, x), f(c, x)); });
  else
    for (int c = 0; c < channels; c += 2)
      for (int x = 0; x < g.padded_w; x += VL) {
        const vf first = f(c, x), second = c + 1 < channels ? f(c + 1, x) : vf{};
        Operand::put(out, c, x, first, second);
      }
}

// GELU(in); where kSlopes its slope to `slope`, which may be `in`.
template <bool kSlopes, class Operand = Fp32>
inline void gelu_row(const Geometry& g, const Row& in, const Row& out, int channels, const Row& slope) {
  fill_row<Operand>(g, out, channels, [&](int c, int x) SM_LAMBDA_INLINE {
    const vf at = load(in.at(c, x));
    if constexpr (!kSlopes) return exact_gelu(at);
    const GeluAt gelu(at);
    store(slope.at(c, x), gelu.slope);
    return gelu.value;
  });
}

// The same; the slope takes the place of `in`.
template <bool kSlopes, class Operand = Fp32>
inline void gelu_row(const Geometry& g, const Row& in, const Row& out, int channels) {
  gelu_row<kSlopes, Operand>(g, in, out, channels, in);
}

// a * b.
template <class Operand = Fp32>
inline void multiply_row(const Geometry& g, const Row& a, const Row& b, const Row& out, int channels) {
  fill_row<Operand>(g, out, channels,
                    [&](int c, int x) SM_LAMBDA_INLINE { return load(a.at(c, x)) * load(b.at(c, x)); });
}

// A row of floats as operands: themselves in fp32, else made in `out`.
template <class Operand>
inline Row operands(const Geometry& g, const Row& row, const Row& out, int channels) {
  if constexpr (Operand::kPack == 1) return row;
  fill_row<Operand>(g, out, channels, [&](int c, int x) SM_LAMBDA_INLINE { return load(row.at(c, x)); });
  return out;
}

// All of a field's.
template <class Operand>
inline Field operands(const Geometry& g, const Field& field, const Field& out, int channels) {
  if constexpr (Operand::kPack == 1) return field;
  for (int r = 0; r < g.h; ++r) operands<Operand>(g, field.row(r), out.row(r), channels);
  return out;
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
