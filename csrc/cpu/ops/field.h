// One image in the memory of one thread, for the differentiable operators: rows with margins of zeros.
//
// Patches that networks are trained on fit the L2 cache, so every layer runs over the whole image, and images
// are what threads share out.  What a stencil reads is 0 outside the image.
#pragma once

#include "cpu/isa/gelu.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"
#include "cpu/rows/matrix.h"
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

// Hands out parts of a block of zeros; without a block, counts how much is needed.
struct Arena {
  float* base;
  size_t used = 0;

  float* floats(size_t count) {
    float* const found = base ? base + used : nullptr;
    used += (count + 15) / 16 * 16;
    return found;
  }

  const float** pointers(size_t count) { return reinterpret_cast<const float**>(floats(2 * count)); }
  double* doubles(size_t count) { return reinterpret_cast<double*>(floats(2 * count)); }

  Field field(const Geometry& g, int channels, bool halo = false) {
    const ptrdiff_t pitch = g.pitch(), stride = pitch * round_up(channels, 4);
    const int outside = halo ? g.halo : 0;
    float* const start = floats((g.h + 2 * outside) * stride + 2 * g.margin);
    return {start ? start + outside * stride + g.margin : nullptr, pitch, stride};
  }

  template <class... F>
  void fields(const Geometry& g, int channels, bool halo, F&... all) {
    ((all = field(g, channels, halo)), ...);
  }
};

inline void read_image(const Geometry& g, const float* planes, int channels, const Field& to) {
  for (int c = 0; c < channels; ++c)
    for (int r = 0; r < g.h; ++r)
      memcpy(to.at(c, r, 0), planes + ((size_t)c * g.h + r) * g.w, sizeof(float) * g.w);
}

inline void write_image(const Geometry& g, const Field& from, int channels, float* planes) {
  for (int c = 0; c < channels; ++c)
    for (int r = 0; r < g.h; ++r)
      memcpy(planes + ((size_t)c * g.h + r) * g.w, from.at(c, r, 0), sizeof(float) * g.w);
}

// Zeroes what lies right of the image.
inline void mask(const Geometry& g, const Field& field, int channels) {
  for (int r = 0; r < g.h; ++r) zero_columns(field.row(r), channels, g.w, g.padded_w);
}

// f(c, r, x) at every vector.
template <class F>
SM_INLINE void each_vector(const Geometry& g, int channels, const F& f) {
  for (int r = 0; r < g.h; ++r)
    for (int c = 0; c < channels; ++c)
      for (int x = 0; x < g.padded_w; x += VL) f(c, r, x);
}

inline void apply_gelu(const Geometry& g, const Field& in, const Field& out, int channels) {
  each_vector(g, channels, [&](int c, int r, int x) SM_LAMBDA_INLINE {
    store(out.at(c, r, x), exact_gelu(load(in.at(c, r, x))));
  });
}

// grad *= GELU'(in)
inline void gelu_backward(const Geometry& g, const Field& in, const Field& grad, int channels) {
  each_vector(g, channels, [&](int c, int r, int x) SM_LAMBDA_INLINE {
    float* const at = grad.at(c, r, x);
    store(at, load(at) * gelu_slope(load(in.at(c, r, x))));
  });
}

inline void multiply(const Geometry& g, const Field& a, const Field& b, const Field& out, int channels) {
  each_vector(g, channels, [&](int c, int r, int x) SM_LAMBDA_INLINE {
    store(out.at(c, r, x), load(a.at(c, r, x)) * load(b.at(c, r, x)));
  });
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
