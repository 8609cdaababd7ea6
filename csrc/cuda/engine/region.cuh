// Tiles of the image with a border, in shared memory: pixels row by row, each at a stride that eight units of
// 16 bytes in a column of pixels lie in different banks; their way in and out, 16 bytes to a lane.
//
// A fragment is 16 pixels one after another, wherever rows end: shared buffers of one pitch are walked with
// one pointer, and a neighbour's place is a constant. What lies outside the image is zero.
#pragma once

#include "cuda/engine/tile.cuh"

namespace seemore {
namespace cuda {

// A part of the image: its first pixel, rows, pixels to a row.
struct Region {
  int y, x, rows, pitch;
  int inverse;  // 65536 / pitch, rounded up: exact for the few thousand pixels of a region

  // The tile with `border` pixels around it, and more at the end of rows up to `pitch`.
  SM_DEVICE Region(const Tiling& at, Place place, int border, int row_pitch)
      : y(place.y - border),
        x(place.x - border),
        rows(at.tile_h + 2 * border),
        pitch(row_pitch),
        inverse(65535 / row_pitch + 1) {}

  SM_DEVICE int count() const { return rows * pitch; }
  SM_DEVICE int row_of(int i) const { return i * inverse >> 16; }
  // Whether pixel i is one of the image.
  SM_DEVICE bool shows(const Tiling& at, int i) const {
    const int row = row_of(i);
    return (unsigned)(y + row) < (unsigned)at.h && (unsigned)(x + i - row * pitch) < (unsigned)at.w;
  }
  SM_DEVICE bool beyond_image(const Tiling& at) const {
    return y < 0 || x < 0 || y + rows > at.h || x + pitch > at.w;
  }
};

// log2 of a tile's width, which is 16 or 32.
SM_DEVICE int log_width(const Tiling& at) { return at.tile_w == 32 ? 5 : 4; }

SM_DEVICE int round_to_fragment(int pixels) { return (pixels + 15) / 16 * 16; }

// Elements of a 16-byte unit.
template <class P>
constexpr int kUnit = 16 / (int)sizeof(typename P::Element);

template <class P, int NT>
constexpr int kStride = pixel_stride(8 * NT, sizeof(typename P::Element));

// Where unit u of a row of pixels lies, in elements.
template <class P, int NT>
SM_DEVICE int place_of_unit(int u) {
  constexpr int units = 8 * NT / kUnit<P>;
  return units * kUnit<P> == kStride<P, NT> ? u * kUnit<P>
                                            : u / units * kStride<P, NT> + u % units * kUnit<P>;
}

// Copies a region of one image of a stream; zeros outside the image, and for `beyond` pixels after the last.
template <class P, int NT>
SM_DEVICE void stage(typename P::Element* memory, const typename P::Element* image, const Tiling& at,
                     const Region& region, int beyond) {
  using Vec = typename P::Vec;
  constexpr int units = 8 * NT / kUnit<P>, kBatch = 3;
  const Vec zero = {};
  const int end = region.pitch * units, first = max(-region.x, 0) * units,
            last = min(at.w - region.x, region.pitch) * units;
  for (int row = threadIdx.x / 32; row < region.rows; row += kWarps) {
    const int y = region.y + row;
    const bool there = (unsigned)y < (unsigned)at.h;
    const auto* from = image + ((long long)y * at.w + region.x) * (8 * NT);
    auto* to = memory + row * region.pitch * kStride<P, NT>;
    for (int u = lane_id(); u < end; u += 32 * kBatch) {
      Vec v[kBatch];
      SM_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        const int at_unit = u + 32 * i;
        v[i] = there && at_unit >= first && at_unit < last ? P::load_vec(from + at_unit * kUnit<P>) : zero;
      }
      SM_UNROLL
      for (int i = 0; i < kBatch; ++i)
        if (u + 32 * i < end) P::store_vec(to + place_of_unit<P, NT>(u + 32 * i), v[i]);
    }
  }
  for (int u = threadIdx.x; u < beyond * units; u += kThreads)
    P::store_vec(memory + region.count() * kStride<P, NT> + place_of_unit<P, NT>(u), zero);
}

// Writes a tile, whose first pixel is at `memory`, to an image of a stream; kAdd: with an image added.
template <class P, int NT, bool kAdd>
SM_DEVICE void copy_out(typename P::Element* image, const typename P::Element* residual,
                        const typename P::Element* memory, int pitch, const Tiling& at, Place place) {
  using Vec = typename P::Vec;
  constexpr int units = 8 * NT / kUnit<P>, kBatch = 3;
  const int end = min(at.tile_w, at.w - place.x) * units;
  for (int row = threadIdx.x / 32; row < at.tile_h && place.y + row < at.h; row += kWarps) {
    const size_t start = ((size_t)(place.y + row) * at.w + place.x) * (8 * NT);
    const auto* from = memory + row * pitch * kStride<P, NT>;
    SM_NO_UNROLL
    for (int u = lane_id(); u < end; u += 32 * kBatch) {
      Vec v[kBatch], other[kBatch];
      SM_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        if (u + 32 * i >= end) break;
        v[i] = P::load_vec(from + place_of_unit<P, NT>(u + 32 * i));
        if constexpr (kAdd) other[i] = P::load_vec(residual + start + (u + 32 * i) * kUnit<P>);
      }
      SM_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        if (u + 32 * i >= end) break;
        if constexpr (kAdd) SM_UNROLL
        for (int j = 0; j < 4; ++j) v[i].w[j] = P::add(v[i].w[j], other[i].w[j]);
        P::store_vec_global(image + start + (u + 32 * i) * kUnit<P>, v[i]);
      }
    }
  }
}

// Zeros for the pixels of a fragment, whose first is `first`, that are not of the image.
template <class P, int NT>
SM_DEVICE void blank(typename P::Chunk (&a)[NT], const Tiling& at, const Region& region, int first) {
  constexpr int words = P::kChunkWords / 2;
  SM_UNROLL
  for (int half = 0; half < 2; ++half) {
    const unsigned mask = region.shows(at, first + lane_id() / 4 + 8 * half) ? 0xffffffffu : 0;
    SM_UNROLL
    for (int n = 0; n < NT; ++n) SM_UNROLL
    for (int i = 0; i < words; ++i) a[n].v[half * words + i] = P::keep(a[n].v[half * words + i], mask);
  }
}

// pack(GELU(acc)), for one fragment.
template <class P, int NT>
SM_DEVICE void gelu_pack(typename P::Chunk (&a)[NT], const float (&acc)[1][NT][4]) {
  SM_UNROLL
  for (int n = 0; n < NT; ++n) a[n] = P::gelu(acc[0][n]);
}

}  // namespace cuda
}  // namespace seemore
