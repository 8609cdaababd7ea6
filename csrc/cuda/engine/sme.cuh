// SME's striped attention with its LayerNorm and residual for stripes of 11 in 16 bit: y + proj (stripes q *
// v), q and v halves of GELU(1x1).
//
// The stripes are matrix products, too: 16 outputs of a line are a banded matrix of the taps times 26 inputs.
// That wants q in planes, a channel after another, which is what a product with the weights on its left
// gives. Planes come 16 channels at a time, and leave as sums of proj in registers. Each channel's two passes
// are one warp's, chained in registers.
//
// Shared memory: 16 planes of q, over whose upper left corner come its stripes; LN y with a border of 5.
#pragma once

#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

// kRows: of a tile, two to a warp; tiles of kBandRows may have fewer.
template <class P, int NT, int kRows>
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
  static constexpr int kRounds = (kChannels + 15) / 16, kMost = 2;  // rounds; rows that are a warp's
  static constexpr int kWarps = kRows / kMost, kThreads = 32 * kWarps;

  // Of the block: its place; a zero that the compiler does not know; which way its region reaches out of the
  // image.
  struct Kept {
    Place place;
    unsigned zero, beyond;
  };
  static constexpr unsigned kSideways = 1, kUpOrDown = 2;
  static_assert(sizeof(Kept) <= kKeptByBands);
  static constexpr int kBegin = 16 * kPlane * sizeof(Element) + kKeptByBands;  // of the rest

  const SmeParams& p;
  const Tiling& at;
  Element *const q, *const normal;  // [16, kPlane], [rows, kPitch]

  SM_DEVICE Sme(const SmeParams& params, unsigned char* memory)
      : p(params),
        at(params.at),
        q(reinterpret_cast<Element*>(memory)),
        normal(reinterpret_cast<Element*>(memory + kBegin)) {}

  // Found where they are needed: registers are scarce.
  SM_DEVICE int warp() const { return threadIdx.x / 32; }
  SM_DEVICE int tile_h() const { return kRows > kBandRows ? kRows : at.tile_h; }
  SM_DEVICE int rows() const { return tile_h() + 2 * kBorder; }
  SM_DEVICE Kept* kept() const { return reinterpret_cast<Kept*>(q + 16 * kPlane); }
  SM_DEVICE Region region() const { return Region(at, kept()->place, kBorder, kPitch); }
  SM_DEVICE const Element* in() const {
    return static_cast<const Element*>(p.in) + image_start(at, blockIdx.y, kChannels);
  }

  SM_DEVICE void normalise() {
    const Place place = place_of(at, blockIdx.x);
    const Region region(at, place, kBorder, kPitch);
    if (threadIdx.x == 0)
      *kept() = {place, 0,
                 (region.beyond_columns(at) ? kSideways : 0) | (region.beyond_rows(at) ? kUpOrDown : 0)};
    stage<P, NT>(normal, in(), at, region, round_to_fragment(region.count()) - region.count());
    __syncthreads();
    const float share = 1.0f / at.dim;
    Element* here = normal + 16 * warp() * stride;
    SM_NO_UNROLL
    for (int first = 16 * warp(); first < region.count(); first += 16 * kWarps) {
      Chunk v[NT];
      P::template read<NT, stride>(v, here);
      P::normalise_but_for_mean(v, share);
      P::template write<NT, stride>(here, v);
      here += 16 * kWarps * stride;
    }
  }

  // What the horizontal product reads behind a row's end: ones for the bias, and what it multiplies by zero.
  SM_DEVICE void write_behind_rows() {
    for (int row = threadIdx.x; row < 16 * kPlane / kColumns; row += kThreads)
      for (int column = kPitch; column < kColumns - 8; column += 2)
        *reinterpret_cast<Word*>(q + row * kColumns + column) = column == kPitch ? Format::kOne : 0;
  }

  // Whether all 16 channels of a round are computed, or 8.
  static SM_DEVICE bool is_whole(int round) { return kChannels % 16 == 0 || round + 1 < kRounds; }

  SM_DEVICE void compute_q(int round) {
    const bool beyond = kept()->beyond & kSideways;
    if (is_whole(round))
      beyond ? planes<true, true>(round) : planes<false, true>(round);
    else
      beyond ? planes<true, false>(round) : planes<false, false>(round);
  }

  // Planes of channels 16 round and following, 8 of them if not kWhole: GELU(to_q LN y); kBeyond: zero
  // left and right of the image.
  template <bool kBeyond, bool kWhole>
  SM_DEVICE void planes(int round) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const Region region = this->region();
    Matrix<P, 2, NT> weight;  // of channels g and g + 8, in the order of left operands
    weight.fetch(p.to_q.weight, round);
    typename P::RowBias bias;
    bias.fetch(p.to_q.bias + 16 * round);
    // Right operands: of two chunks of channels pixels 0 to 7, then pixels 8 to 15.
    const Element* from =
        normal + (16 * warp() + (lane_id() & 7) + (lane_id() >> 4) * 8) * stride + (lane_id() >> 3 & 1) * 8;
    const Element* last_chunk = normal + (16 * warp() + (lane_id() & 15)) * stride + 8 * (NT - 1);
    Element* to = q + g * kPlane + 16 * warp() + 2 * t;
    SM_NO_UNROLL
    for (int first = 16 * warp(); first < region.count(); first += 16 * kWarps) {
      unsigned a[NT / 2][4], last[2];
      SM_UNROLL
      for (int k = 0; k < NT / 2; ++k) ldmatrix_x4(a[k], from + 16 * k);
      if (NT % 2) ldmatrix_x2(last, last_chunk);
      SM_UNROLL
      for (int j = 0; j < 2; ++j) {
        Sum acc;
        bias.begin(acc);
        SM_UNROLL
        for (int k = 0; k < NT / 2; ++k) {
          const unsigned left[2] = {weight.word(4 * k), weight.word(4 * k + 1)},
                         right[2] = {weight.word(4 * k + 2), weight.word(4 * k + 3)};
          Format::mma_k16(acc, left, right, {a[k][2 * j], a[k][2 * j + 1]});
        }
        if (NT % 2) {
          const unsigned left[2] = {weight.word(2 * NT - 2), weight.word(2 * NT - 1)};
          Format::mma_k8(acc, left, last[j]);
        }
        const int i = first + 8 * j + 2 * t;
        // Pixels after the last are in the plane's last row, which has no others.
        const int row = region.row_of(i);
        Element* here = to + 8 * j + row * (kColumns - kPitch);
        unsigned mask = 0xffffffffu;
        if constexpr (kBeyond) {  // both pixels are of one row
          const int x = region.x + i - row * kPitch;
          mask = P::mask((unsigned)x < (unsigned)at.w, (unsigned)(x + 1) < (unsigned)at.w);
        }
        const Chunk both = P::gelu(acc);
        SM_UNROLL
        for (int upper = 0; upper < (kWhole ? 2 : 1); ++upper)
          *reinterpret_cast<Word*>(here + upper * 8 * kPlane) = both.v[upper] & mask;
      }
      from += 16 * kWarps * stride;
      last_chunk += 16 * kWarps * stride;
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

  // Both stripes of the round's planes, in place; kBeyond: the first's are zero above and below the image.
  template <bool kBeyond>
  SM_DEVICE void stripes(int round) {
    const int g = lane_id() / 4, t = lane_id() % 4, last = rows() - 1;
    const unsigned zero = kept()->zero;
    const Place place = kept()->place;
    const int count = min(16, at.dim - 16 * round);
    const auto* bands_h = static_cast<const uint4*>(p.bands_h) + (16 * round + warp()) * 32 + lane_id();
    const auto* bands_v = static_cast<const uint4*>(p.bands_v) + (16 * round + warp()) * 32 + lane_id();
    Element* plane = q + warp() * kPlane;
    SM_NO_UNROLL
    for (int channel = warp(); channel < count; channel += kWarps) {
      const Band horizontal(__ldg(bands_h), zero), vertical(__ldg(bands_v), zero);
      // Of 32 rows, 8 at a time, columns g and g + 8: rows 2t, 2t + 1.
      unsigned line[4][2];
      auto filter_rows = [&](int b, int first) {
        // Rows after the last stand for what the second pass multiplies by zero.
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

  // sum += proj (stripes q * v), the round's channels.
  template <bool kWhole>
  SM_DEVICE void project(int round, Sum (&sum)[kMost][NT]) {
    Matrix<P, 2, NT> to_v;
    Matrix<P, NT, 2> proj;
    typename P::template SumBias<2> bias;
    to_v.fetch(p.to_v.weight, round);
    proj.fetch(p.proj.weight, round);
    bias.fetch(p.to_v.bias + 16 * round);
    const Element* planes = q + ((lane_id() & 7) + (lane_id() >> 4) * 8) * kPlane + (lane_id() >> 3 & 1) * 8;
    SM_UNROLL
    for (int m = 0; m < kMost; ++m) {
      const int row = warp() + m * kWarps;
      if (row >= tile_h()) break;
      Chunk a[1][NT], v[1][2];
      Sum acc[1][2];
      P::template read<NT, stride>(a[0], tile_row(row));
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

  SM_DEVICE void run() {
    write_behind_rows();
    normalise();
    Sum sum[kMost][NT];
    typename P::template SumBias<NT> bias;
    bias.fetch(p.proj.bias);
    P::begin(sum, bias);
    SM_NO_UNROLL
    for (int round = 0; round < kRounds; ++round) {
      __syncthreads();
      compute_q(round);
      __syncthreads();
      if (kept()->beyond & kUpOrDown)
        stripes<true>(round);
      else
        stripes<false>(round);
      __syncthreads();
      if (is_whole(round))
        project<true>(round, sum);
      else
        project<false>(round, sum);
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
    copy_out<P, NT, true>(static_cast<Element*>(p.out) + image_start(at, blockIdx.y, kChannels), in(),
                          tile_row(0), kPitch, at, kept()->place);
  }
};

template <class P, int NT, int kRows>
SM_DEVICE void sme_kernel(const SmeParams& p) {
  SM_DYNAMIC_SHARED(memory);
  Sme<P, NT, kRows>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
