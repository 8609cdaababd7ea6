// Tiles of the image with a border, in shared memory: pixels row by row, each at a stride that eight units of
// 16 bytes in a column of pixels lie in different banks; their way in, past registers, and out, 16 bytes to a
// lane.
//
// A fragment is 16 pixels one after another, wherever rows end: shared buffers of one pitch are walked with
// one pointer, and a neighbour's place is a constant. What lies outside the image is zero.
#pragma once

#include "cuda/engine/tile.cuh"

namespace seemore {
namespace cuda {

// Pixels from a row of a region to the next, of few that there are: no division is left to the GPU.
struct Pitch {
  int pixels;
  int inverse;  // 65536 / pixels, rounded up: exact for the few thousand pixels of a region
};
template <int pixels>
constexpr int kInverse = 65535 / pixels + 1;
// Of rows that are kMore pixels longer than a tile's.
template <int kMore>
SM_DEVICE Pitch longer(const Tiling& at) {
  return {at.tile_w + kMore, at.tile_w == 32 ? kInverse<32 + kMore> : kInverse<16 + kMore>};
}

// A part of the image: its first pixel, rows, pixels to a row.
struct Region {
  int y, x, rows, pitch, inverse;  // Pitch

  // The tile with `border` pixels around it, and more at the end of rows up to their pitch.
  SM_DEVICE Region(const Tiling& at, Place place, int border, const Pitch& row)
      : y(place.y - border),
        x(place.x - border),
        rows(at.tile_h + 2 * border),
        pitch(row.pixels),
        inverse(row.inverse) {}

  SM_DEVICE int count() const { return rows * pitch; }
  SM_DEVICE int row_of(int i) const { return i * inverse >> 16; }
  // Whether pixel i is one of the image.
  SM_DEVICE bool shows(const Tiling& at, int i) const {
    const int row = row_of(i);
    return (unsigned)(y + row) < (unsigned)at.h && (unsigned)(x + i - row * pitch) < (unsigned)at.w;
  }
  // Whether pixels are left or right of the image, above or below it; either.
  SM_DEVICE bool beyond_columns(const Tiling& at) const { return x < 0 || x + pitch > at.w; }
  SM_DEVICE bool beyond_rows(const Tiling& at) const { return y < 0 || y + rows > at.h; }
  SM_DEVICE bool beyond_image(const Tiling& at) const { return beyond_columns(at) || beyond_rows(at); }
};

// log2 of a tile's width, which is 16 or 32.
SM_DEVICE int log_width(const Tiling& at) { return at.tile_w == 32 ? 5 : 4; }

SM_DEVICE int round_to_fragment(int pixels) { return (pixels + 15) / 16 * 16; }

// Elements of a 16-byte unit.
template <class P>
constexpr int kUnit = 16 / (int)sizeof(typename P::Element);

template <class P, int NT>
constexpr int kStride = pixel_stride(8 * NT, sizeof(typename P::Element));

// A row of pixels lies in places of 16 bytes, of which the last of a pixel may be padding. Lanes take
// neighbouring places, whose banks differ, those of whole pixels where there is padding: what place a lane
// has of a pixel is then the same all the time, and lanes at padding idle.
template <class P, int NT>
struct Places {
  static constexpr int kOfPixel = kStride<P, NT> / kUnit<P>, kUnits = 8 * NT / kUnit<P>;
  static constexpr bool kPadded = kOfPixel > kUnits;
  static constexpr int kLanes = kPadded ? 32 / kOfPixel * kOfPixel : 32;  // that are used at most
  static constexpr int kLanesUnits = kLanes / kOfPixel * kUnits + kLanes % kOfPixel;

  // Pixels before the one of a place in a row.
  static SM_DEVICE int pixels(int place) { return place * kInverse<kOfPixel> >> 16; }
  static SM_DEVICE bool holds(int lane) {
    return !kPadded || (lane < kLanes && lane - pixels(lane) * kOfPixel < kUnits);
  }
  // Which unit of the stream's lies at a place.
  static SM_DEVICE int unit(int place) { return place - pixels(place) * (kOfPixel - kUnits); }
};

// The rows of a region; kInside: all of it is the image's.
template <class P, int NT, bool kInside>
SM_DEVICE void stage_rows(typename P::Element* memory, const typename P::Element* image, const Tiling& at,
                          const Region& region) {
  using Of = Places<P, NT>;
  constexpr int kBatch = Of::kPadded ? 5 : 6;
  const int end = region.pitch * Of::kOfPixel, first = max(-region.x, 0) * Of::kOfPixel,
            last = min(at.w - region.x, region.pitch) * Of::kOfPixel, warp = threadIdx.x / 32,
            mine = Of::holds(lane_id()) ? lane_id() : end;
  const auto* from = image + (long long)((region.y + warp) * at.w + region.x) * (8 * NT);
  auto* to = memory + warp * region.pitch * kStride<P, NT>;
  const size_t step = before(warps() * at.w, 8 * NT);
  SM_NO_UNROLL
  for (int row = warp; row < region.rows; row += warps()) {
    const bool there = kInside || (unsigned)(region.y + row) < (unsigned)at.h;
    auto* here = to + mine * kUnit<P>;
    const auto* what = from + Of::unit(mine) * kUnit<P>;
    SM_NO_UNROLL
    for (int start = mine; start < end; start += Of::kLanes * kBatch) {
      SM_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        const int place = start + Of::kLanes * i, near = Of::kLanes * i * kUnit<P>,
                  far = Of::kLanesUnits * i * kUnit<P>;
        if constexpr (kInside) {
          if (place < end) copy_to_shared(here + near, what + far);
        } else {
          if (place < end) copy_to_shared(here + near, what + far, there && place >= first && place < last);
        }
      }
      here += Of::kLanes * kBatch * kUnit<P>;
      what += Of::kLanesUnits * kBatch * kUnit<P>;
    }
    from += step;
    to += warps() * region.pitch * kStride<P, NT>;
  }
}

// Copies a region of one image of a stream; zeros outside the image, and for `beyond` pixels after the last.
template <class P, int NT>
SM_DEVICE void stage(typename P::Element* memory, const typename P::Element* image, const Tiling& at,
                     const Region& region, int beyond) {
  if (region.beyond_image(at))
    stage_rows<P, NT, false>(memory, image, at, region);
  else
    stage_rows<P, NT, true>(memory, image, at, region);
  for (int place = threadIdx.x; place < beyond * Places<P, NT>::kOfPixel; place += threads())
    P::store_vec(memory + region.count() * kStride<P, NT> + place * kUnit<P>, {});
  wait_for_copies();
}

// Writes a tile, whose first pixel is at `memory`, to an image of a stream; kAdd: with an image added.
template <class P, int NT, bool kAdd>
SM_DEVICE void copy_out(typename P::Element* image, const typename P::Element* residual,
                        const typename P::Element* memory, int pitch, const Tiling& at, Place place,
                        int warp = threadIdx.x / 32) {
  using Vec = typename P::Vec;
  using Of = Places<P, NT>;
  constexpr int kBatch = 3;
  const int end = min(at.tile_w, at.w - place.x) * Of::kOfPixel, rows = min(at.tile_h, at.h - place.y),
            mine = Of::holds(lane_id()) ? lane_id() : end;
  const size_t start = before((place.y + warp) * at.w + place.x, 8 * NT),
               step = before(warps() * at.w, 8 * NT);
  auto* to = image + start;
  const auto* also = kAdd ? residual + start : residual;
  const auto* from = memory + warp * pitch * kStride<P, NT>;
  SM_NO_UNROLL
  for (int row = warp; row < rows; row += warps()) {
    SM_NO_UNROLL
    for (int first = mine, unit = Of::unit(mine); first < end;
         first += Of::kLanes * kBatch, unit += Of::kLanesUnits * kBatch) {
      Vec v[kBatch], other[kBatch];
      SM_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        if (first + Of::kLanes * i >= end) break;
        v[i] = P::load_vec(from + (first + Of::kLanes * i) * kUnit<P>);
        if constexpr (kAdd) other[i] = P::load_vec(also + (unit + Of::kLanesUnits * i) * kUnit<P>);
      }
      SM_UNROLL
      for (int i = 0; i < kBatch; ++i) {
        if (first + Of::kLanes * i >= end) break;
        if constexpr (kAdd) SM_UNROLL
        for (int j = 0; j < 4; ++j) v[i].w[j] = P::add(v[i].w[j], other[i].w[j]);
        P::store_vec_global(to + (unit + Of::kLanesUnits * i) * kUnit<P>, v[i]);
      }
    }
    to += step;
    if constexpr (kAdd) also += step;
    from += warps() * pitch * kStride<P, NT>;
  }
}

// Shares the first rows of a tile, in columns of kRows pixels, of all units of channels, among the threads:
// two columns beside each other are a thread's, whose neighbourhoods it reads once. Eight lanes have four
// such pairs of two units: pixels an even number of units apart, so that units of both parities fill all
// banks. An odd last unit has no partner: its columns go one by one. two, one: f(unit, row, column) of the
// first pixel.
template <int kUnits, int kRows, class Two, class One>
SM_DEVICE void share_columns(const Tiling& at, int rows, Two two, One one) {
  constexpr int kPairs = kUnits / 2;  // of units
  const int log = log_width(at), bands = (rows + kRows - 1) / kRows, paired = (kPairs * bands) << log,
            all = paired + (kUnits % 2 ? bands << log : 0);
  for (int task = threadIdx.x; task < all; task += threads()) {
    const int other = (task < paired ? task : task - paired) >> log, i = task & (at.tile_w - 1);
    if (task < paired)
      two(other % kPairs * 2 + (i >> 2 & 1), other / kPairs * kRows, (i & 3) * 2 + (i >> 3) * 8);
    else
      one(kUnits - 1, other * kRows, i);
  }
}

// Every `step`th fragment of a tile, from fragment `first` on. They lie below each other: step is a multiple
// of the fragments in a row.
struct Below {
  int row, column, down;  // of the first one; rows to the next

  SM_DEVICE Below(const Tiling& at, int first, int step) {
    const int log = log_width(at) - 4;
    row = first >> log;
    column = (first & ((1 << log) - 1)) * 16;
    down = step >> log;
  }
};
// Calls f(where in shared memory) for those of a tile's first `rows`, which are read again for each: no
// register is to hold what shared memory does.
template <class P, int NT, class F>
SM_DEVICE void for_fragments(typename P::Element* memory, int pitch, const Below& which, const int& rows,
                             F f) {
  for (int row = which.row; row < rows; row += which.down)
    f(memory + (row * pitch + which.column) * kStride<P, NT>);
}

// Zeros for the pixels of a region in shared memory that are not of the image.
template <class P, int NT>
SM_DEVICE void clear_beyond(typename P::Element* memory, const Tiling& at, const Region& region) {
  for (int i = threadIdx.x; i < region.count(); i += threads()) {
    if (region.shows(at, i)) continue;
    SM_UNROLL
    for (int unit = 0; unit < Places<P, NT>::kUnits; ++unit)
      P::store_vec(memory + i * kStride<P, NT> + unit * kUnit<P>, {});
  }
}

// One column of taps of convolve3x3() for 8 K channels of MT + 2 rows of pixels: from is the lane's address
// in the first, down the way to the next. Every row is fetched once, for all taps and fragments that it
// meets.
template <class P, int K, int MT, int OT, class Acc>
SM_DEVICE void convolve_column(Acc (&acc)[MT][OT], const typename P::Element* from, int down,
                               const uint4*& weight) {
  Matrix<P, 3 * OT, K> taps;
  taps.fetch_own(weight);
  weight += taps.kVectors * 32;
  SM_UNROLL
  for (int row = 0; row < MT + 2; ++row) {
    typename P::Chunk a[K];
    P::fetch(a, from + row * down);
    SM_UNROLL
    for (int dy = 0; dy < 3; ++dy)
      if (row >= dy && row - dy < MT) P::multiply_some(acc[row - dy], a, taps, dy * OT);
  }
}

// acc += the 3x3 convolution of MT fragments in rows below each other: place(row) is the upper left neighbour
// of the first one's pixel `row`, down(row) the way from that to the next fragment's. Convolution `pass` of
// the weights, in the order of pack.cc.
template <class P, int NT, int MT, int OT, class Acc, class PlaceOf, class DownOf>
SM_DEVICE void convolve3x3(Acc (&acc)[MT][OT], const typename P::Element* memory, PlaceOf place, DownOf down,
                           const void* weight, int pass) {
  constexpr int stride = kStride<P, NT>;
  if constexpr (sizeof(typename P::Element) == 2) {
    constexpr int kPairs = NT / 2 * 3 + NT % 2, kVectors = kPairs * Matrix<P, 3 * OT, 2>::kVectors +
                                                           NT % 2 * Matrix<P, 3 * OT, 1>::kVectors;
    const uint4* matrix = static_cast<const uint4*>(weight) + pass * kVectors * 32 + lane_id();
    const int row = lane_id() & 15, step = down(row) * stride;
    const typename P::Element* from = memory + place(row) * stride;
    // Where 8 channels are left, those of the last column, and of the others at once.
    constexpr int kRest = 8 * (NT - 1);
    if constexpr (NT % 2) convolve_column<P, 1>(acc, from + kRest + 2 * stride, step, matrix);
    from += 8 * (lane_id() >> 4);  // of two chunks the lane's
    SM_NO_UNROLL
    for (int k = 0; k < kPairs; ++k) {
      convolve_column<P, 2>(acc, from, step, matrix);
      from += (k + 1) % (NT / 2) ? 16 : stride - (NT / 2 - 1) * 16;
      if (NT % 2 && k == kPairs - 2) from += kRest - 3 * stride + (stride - 8) * (lane_id() >> 4);
    }
  } else {
    static_assert(MT == 1);
    constexpr int kInputs = kInputsAtOnce<P, OT, NT>, kParts = NT / kInputs;
    using Taps = Matrix<P, OT, kInputs>;
    const uint4* matrix =
        static_cast<const uint4*>(weight) + pass * 9 * kParts * Taps::kVectors * 32 + lane_id();
    const typename P::Element* from = memory + place(0) * stride;
    SM_NO_UNROLL
    for (int dy = 0; dy < 3; ++dy) {
      SM_NO_UNROLL
      for (int dx = 0; dx < 3; ++dx) {
        SM_NO_UNROLL
        for (int part = 0; part < kParts; ++part) {
          Taps taps;
          taps.fetch_own(matrix);
          typename P::Chunk a[MT][kInputs];
          P::template read<kInputs, stride>(a[0], from + 8 * kInputs * part);
          P::multiply(acc, a, taps);
          matrix += Taps::kVectors * 32;
        }
        from += stride;
      }
      from += (down(0) - 3) * stride;
    }
  }
}

// pack(GELU(acc)), for one fragment.
template <class P, int NT>
SM_DEVICE void gelu_pack(typename P::Chunk (&a)[NT], const typename P::Sum (&acc)[1][NT]) {
  SM_UNROLL
  for (int n = 0; n < NT; ++n) a[n] = P::gelu(acc[0][n]);
}

}  // namespace cuda
}  // namespace seemore
