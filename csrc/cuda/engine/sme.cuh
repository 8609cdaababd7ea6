// SME's striped attention with its LayerNorm and residual for stripes of 11 in 16 bit: y + proj (stripes q *
// v), q and v halves of GELU(1x1).
//
// The stripes are matrix products, too: 16 outputs of a line are a banded matrix of the taps times 26 inputs.
// That wants q in planes, a channel after another, which is what a product with the weights on its left
// gives. Planes come as many at a time as shared memory holds, the first ones right behind LN, in registers;
// and leave as sums of proj in registers. Each channel's two passes are one warp's, chained in registers.
//
// Shared memory: planes of q, over whose upper left corner come its stripes; LN y with a border of 5.
#pragma once

#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

// kRows: of a tile, two to a warp; tiles of kBandRows may have fewer. kFirst: channels of the first round, in
// parts of 16; later rounds have a part each, of which the last may have 8 channels.
template <class P, int NT, int kRows, int kFirst>
struct Sme {
  using Element = typename P::Element;
  using Word = typename P::Word;
  using Chunk = typename P::Chunk;
  using Format = typename P::WordFormat;
  using Sum = typename P::Sum;
  static constexpr int kChannels = 8 * NT, stride = kStride<P, NT>, kBorder = 5;
  static constexpr int kPitch = 16 + 2 * kBorder;  // of all tiles
  static constexpr int kColumns = kPlanePitch;     // of a plane
  static constexpr int kPlane = kPlaneOf<kRows>;
  static constexpr int kParts = (kChannels + 15) / 16, kFirstParts = (kFirst + 15) / 16;
  static constexpr int kMost = 2;  // rows that are a warp's
  // Whether registers hold LN y of these for all parts of a round.
  static constexpr bool kHeld = kFirstParts > 1 && !kIsBf16<P>;
  static constexpr int kWarps = kRows / kMost, kThreads = 32 * kWarps;

  // Of the block: its place; a zero that the compiler does not know; which way its region reaches out of the
  // image.
  struct Kept {
    Place place;
    unsigned zero, beyond;
  };
  static constexpr unsigned kSideways = 1, kUpOrDown = 2;
  static_assert(sizeof(Kept) <= kKeptByBands);
  static constexpr int kBegin = kFirst * kPlane * sizeof(Element) + kKeptByBands;  // of the rest

  const SmeParams& p;
  const Tiling& at;
  Element *const q, *const normal;  // [kFirst, kPlane], [rows, kPitch]

  SM_DEVICE Sme(const SmeParams& params, unsigned char* memory)
      : p(params),
        at(params.at),
        q(reinterpret_cast<Element*>(memory)),
        normal(reinterpret_cast<Element*>(memory + kBegin)) {}

  // Found where they are needed: registers are scarce.
  SM_DEVICE int warp() const { return threadIdx.x / 32; }
  SM_DEVICE int tile_h() const { return kRows > kBandRows ? kRows : at.tile_h; }
  SM_DEVICE int rows() const { return tile_h() + 2 * kBorder; }
  SM_DEVICE Kept* kept() const { return reinterpret_cast<Kept*>(q + kFirst * kPlane); }
  SM_DEVICE Region region_at(Place place) const {
    Region region(at, place, kBorder, {kPitch, kInverse<kPitch>});
    region.rows = min(rows(), at.h - region.y);  // what lies below the image is left out
    return region;
  }
  SM_DEVICE Region region() const { return region_at(kept()->place); }
  SM_DEVICE const Element* in() const {
    return static_cast<const Element*>(p.in) + image_start(at, blockIdx.z, kChannels);
  }

  SM_DEVICE void fetch() {
    const Place place = place_of(at);
    const Region region = region_at(place);
    if (threadIdx.x == 0)
      *kept() = {place, 0,
                 (region.beyond_columns(at) ? kSideways : 0) |
                     (region.y < 0 || region.rows < rows() ? kUpOrDown : 0)};
    stage<P, NT>(normal, in(), at, region, round_to_fragment(region.count()) - region.count());
  }

  // What the horizontal product reads behind a row's end: ones for the bias, and what it multiplies by zero.
  SM_DEVICE void write_behind_rows() {
    constexpr int kPlaneRows = kRows + 2 * kBorder;
    for (int i = threadIdx.x; i < kFirst * kPlaneRows; i += kThreads) {
      Element* row = q + i / kPlaneRows * kPlane + i % kPlaneRows * kColumns;
      store_shared(row + kPitch - 2, {0, Format::kOne, 0, 0});  // the row's last pixels come later
    }
  }

  // Whether all 16 channels of a part are computed, or 8.
  static SM_DEVICE constexpr bool is_whole(int part) { return kChannels % 16 == 0 || part + 1 < kParts; }

  SM_DEVICE void compute_q(int part) {
    const bool beyond = kept()->beyond & kSideways;
    if (part == 0)
      beyond ? planes<kFirstParts, true, true, is_whole(kFirstParts - 1)>(0)
             : planes<kFirstParts, true, false, is_whole(kFirstParts - 1)>(0);
    else if (is_whole(part))
      beyond ? planes<1, false, true, true>(part) : planes<1, false, false, true>(part);
    else
      beyond ? planes<1, false, true, false>(part) : planes<1, false, false, false>(part);
  }

  // Planes of channels 16 part and following, of N parts, the last of 8 if not kWhole: GELU(to_q LN y).
  // kNormalise: LN of the pixels on the way; kBeyond: zero left and right of the image.
  template <int N, bool kNormalise, bool kBeyond, bool kWhole>
  SM_DEVICE void planes(int part) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const Region region = this->region();
    const float share = 1.0f / at.dim;
    Matrix<P, 2, NT> weight[N];  // of channels g and g + 8, in the order of left operands
    typename P::RowBias bias[N];
    SM_UNROLL
    for (int n = 0; n < N; ++n) {
      weight[n].fetch(p.to_q.weight, part + n);
      bias[n].fetch(p.to_q.bias + 16 * (part + n));
    }
    Element* from = normal + 16 * warp() * stride;
    Element* to = q + g * kPlane + 16 * warp() + 2 * t;
    SM_NO_UNROLL
    for (int first = 16 * warp(); first < region.count(); first += 16 * kWarps) {
      Chunk v[NT];  // as right operands: of pixels 0 to 7 and 8 to 15
      if constexpr (kNormalise || kIsBf16<P>)
        P::template read<NT, stride>(v, from);
      else
        P::template read_columns<NT, stride>(v, from);
      if constexpr (kNormalise) {
        P::normalise_but_for_mean(v, share);
        if constexpr (kIsBf16<P>)  // the other order would spill
          P::template write<NT, stride>(from, v);
        else
          P::template write_columns<NT, stride>(from, v);
      }
      SM_UNROLL
      for (int j = 0; j < 2; ++j) {
        const int i = first + 8 * j + 2 * t;
        const int row = region.row_of(i);
        Element* here = to + 8 * j + row * (kColumns - kPitch);
        unsigned mask = 0xffffffffu;
        if constexpr (kBeyond) {  // both pixels are of one row
          const int x = region.x + i - row * kPitch;
          mask = P::mask((unsigned)x < (unsigned)at.w, (unsigned)(x + 1) < (unsigned)at.w);
        }
        SM_UNROLL
        for (int n = 0; n < N; ++n) {
          Sum acc;
          bias[n].begin(acc);
          SM_UNROLL
          for (int k = 0; k < NT / 2; ++k) {
            const unsigned left[2] = {weight[n].word(4 * k), weight[n].word(4 * k + 1)},
                           right[2] = {weight[n].word(4 * k + 2), weight[n].word(4 * k + 3)};
            Format::mma_k16(acc, left, right, {v[2 * k].v[j], v[2 * k + 1].v[j]});
          }
          if (NT % 2) {
            const unsigned left[2] = {weight[n].word(2 * NT - 2), weight[n].word(2 * NT - 1)};
            Format::mma_k8(acc, left, v[NT - 1].v[j]);
          }
          const Chunk both = P::gelu(acc);
          SM_UNROLL
          for (int upper = 0; upper < (n + 1 < N || kWhole ? 2 : 1); ++upper)
            if (i < rows() * kPitch)  // below the image no matter
              *reinterpret_cast<Word*>(here + (16 * n + 8 * upper) * kPlane) = both.v[upper] & mask;
        }
      }
      from += 16 * kWarps * stride;
      to += 16 * kWarps;
    }
  }

  // A channel's stripe in one direction: 16 outputs of a line times 32 inputs, as two left operands. Each has
  // registers of its own, or the compiler would put them together for every product.
  struct Band {
    unsigned near[2][2], far[2][2];

    SM_DEVICE Band(const uint4& blocks, unsigned zero)
        : near{{blocks.w ^ zero, blocks.w & zero}, {blocks.y ^ zero, blocks.w | zero}},
          far{{blocks.x, blocks.y}, {blocks.z, blocks.x | blocks.z}} {}

    // 16 outputs of 8 lines.
    SM_DEVICE Chunk multiply(uint2 first, uint2 second) const {
      Sum acc;
      Format::mma_k16_first(acc, near[0], near[1], first);
      Format::mma_k16(acc, far[0], far[1], second);
      return P::exact(acc);
    }
  };

  // Both stripes of the planes of channels 16 part and following, in place; kBeyond: the first's are zero
  // above and below the image.
  template <bool kBeyond>
  SM_DEVICE void stripes(int part) {
    const int g = lane_id() / 4, t = lane_id() % 4, last = (kBeyond ? region().rows : rows()) - 1;
    const unsigned zero = kept()->zero;
    const Place place = kept()->place;
    const int count = min(part ? 16 : kFirst, at.dim - 16 * part);
    const auto* bands_h = static_cast<const uint4*>(p.bands_h) + (16 * part + warp()) * 32 + lane_id();
    const auto* bands_v = static_cast<const uint4*>(p.bands_v) + (16 * part + warp()) * 32 + lane_id();
    Element* plane = q + warp() * kPlane;
    SM_NO_UNROLL
    for (int channel = warp(); channel < count; channel += kWarps) {
      const Band horizontal(__ldg(bands_h), zero), vertical(__ldg(bands_v), zero);
      // Of 32 rows, 8 at a time, columns g and g + 8: rows 2t, 2t + 1.
      unsigned line[4][2];
      auto filter_rows = [&](int b, int first) {
        // The last row stands for those below the image, which are blank, and for what the second pass
        // multiplies by zero.
        unsigned rows[4];
        ldmatrix_x4(rows, plane + min(first + (lane_id() & 7), last) * kColumns + (lane_id() & 24));
        const Chunk filtered = horizontal.multiply({rows[0], rows[1]}, {rows[2], rows[3]});
        line[b][0] = filtered.v[0];
        line[b][1] = filtered.v[1];
        if constexpr (kBeyond) {
          const int y = place.y - kBorder + first + 2 * t;
          const unsigned mask = P::mask((unsigned)y < (unsigned)at.h, (unsigned)(y + 1) < (unsigned)at.h);
          line[b][0] &= mask, line[b][1] &= mask;
        }
      };
      // 16 rows of the tile come from 26 of the plane, the first 16 of which may have been filtered before.
      filter_rows(0, 0);
      filter_rows(1, 8);
      SM_UNROLL
      for (int from = 0; from < kRows; from += kBandRows) {
        // None of these 16 is the image's, and results lie where the last row was.
        if (kBeyond && from + kBorder > last) break;
        filter_rows(2, from + 16);
        filter_rows(3, from + 24);
        __syncwarp();  // all lanes have read what results come over
        SM_UNROLL
        for (int j = 0; j < 2; ++j) {
          const unsigned end = t == 1 ? Format::kOne : line[3][j];  // for the bias
          const Chunk out = vertical.multiply({line[0][j], line[1][j]}, {line[2][j], end});
          Element* to = plane + (from + g) * kColumns + 8 * j + 2 * t;
          *reinterpret_cast<Word*>(to) = out.v[0];
          if (tile_h() > 8) *reinterpret_cast<Word*>(to + 8 * kColumns) = out.v[1];
          line[0][j] = line[2][j], line[1][j] = line[3][j];
        }
      }
      bands_h += kWarps * 32;
      bands_v += kWarps * 32;
      plane += kWarps * kPlane;
    }
  }

  SM_DEVICE Element* tile_row(int row) const {
    return normal + ((row + kBorder) * kPitch + kBorder) * stride;
  }

  // sum += proj (stripes q * v) of a part's channels, whose planes begin at `planes`, in the warp's first
  // kMine rows; normal: LN y, if kHeld.
  template <bool kWhole, int kMine>
  SM_DEVICE void project(int part, const Element* planes, const Chunk (&normal)[kMost][NT],
                         Sum (&sum)[kMost][NT]) {
    Matrix<P, 2, NT> to_v;
    Matrix<P, NT, 2> proj;
    typename P::template SumBias<2> bias;
    to_v.fetch(p.to_v.weight, part);
    proj.fetch(p.proj.weight, part);
    bias.fetch(p.to_v.bias + 16 * part);
    // Of 8 channels, there are no planes but those.
    planes += ((lane_id() & 7) + (kWhole ? (lane_id() >> 4) * 8 : 0)) * kPlane + (lane_id() >> 3 & 1) * 8;
    SM_UNROLL
    for (int m = 0; m < kMine; ++m) {
      const int row = warp() + m * kWarps;
      Chunk v[1][2];
      Sum acc[1][2];
      Chunk a[1][NT];
      if constexpr (kHeld) SM_UNROLL
      for (int k = 0; k < NT; ++k) a[0][k] = normal[m][k];
      else P::template read<NT, stride>(a[0], tile_row(row));
      dense<P>(acc, a, to_v, bias);
      unsigned striped[4];
      ldmatrix_x4_transposed(striped, planes + row * kColumns);
      SM_UNROLL
      for (int c = 0; c < 2; ++c) {
        const Chunk gate = P::gelu(acc[0][c]);
        SM_UNROLL
        for (int half = 0; half < 2; ++half)
          v[0][c].v[half] = kWhole || c == 0 ? P::mul(gate.v[half], striped[2 * c + half]) : 0;
      }
      Sum(&one)[1][NT] = reinterpret_cast<Sum(&)[1][NT]>(sum[m]);
      P::multiply(one, v, proj);
    }
  }

  // The same of all parts of a round.
  template <int kMine>
  SM_DEVICE void project_all(int first, int end, Sum (&sum)[kMost][NT]) {
    Chunk normal[kMost][NT];
    SM_UNROLL
    for (int m = 0; kHeld && m < kMine; ++m)
      P::template read<NT, stride>(normal[m], tile_row(warp() + m * kWarps));
    const Element* planes = q;
    SM_NO_UNROLL
    for (int part = first; part < end; ++part) {
      if (is_whole(part))
        project<true, kMine>(part, planes, normal, sum);
      else
        project<false, kMine>(part, planes, normal, sum);
      planes += 16 * kPlane;
    }
  }

  SM_DEVICE void run() {
    write_behind_rows();
    fetch();
    Sum sum[kMost][NT];
    typename P::template SumBias<NT> bias;
    bias.fetch(p.proj.bias);
    P::begin(sum, bias);
    SM_NO_UNROLL
    for (int part = 0; part < kParts; part += part ? 1 : kFirstParts) {
      __syncthreads();
      compute_q(part);
      __syncthreads();
      if (kept()->beyond & kUpOrDown)
        stripes<true>(part);
      else
        stripes<false>(part);
      __syncthreads();
      // Decided here, once for all products: rows that the tile and the image have from the warp's first on.
      const int end = part ? part + 1 : kFirstParts, left = min(tile_h(), at.h - kept()->place.y) - warp();
      if (left > kWarps)
        project_all<kMost>(part, end, sum);
      else if (left > 0)
        project_all<1>(part, end, sum);
    }
    SM_UNROLL
    for (int m = 0; m < kMost; ++m) {
      const int row = warp() + m * kWarps;
      if (row >= tile_h()) break;
      Chunk v[NT];
      SM_UNROLL
      for (int n = 0; n < NT; ++n) v[n] = P::exact(sum[m][n]);
      P::template write<NT, stride>(tile_row(row), v);
    }
    __syncthreads();
    copy_out<P, NT, true>(static_cast<Element*>(p.out) + image_start(at, blockIdx.z, kChannels), in(),
                          tile_row(0), kPitch, at, kept()->place);
  }
};

template <class P, int NT, int kRows, int kFirst>
SM_DEVICE void sme_kernel(const SmeParams& p) {
  SM_DYNAMIC_SHARED(memory);
  Sme<P, NT, kRows, kFirst>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
