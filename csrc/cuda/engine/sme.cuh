// SME's striped attention with its LayerNorm and residual for stripes of 11 in 16 bit: y + proj (stripes q *
// v), q and v halves of GELU(1x1).
//
// The stripes are matrix products, too: 16 outputs of a line are a banded matrix of the taps times 26 inputs.
// That wants q in planes, a channel after another, which is what a product with the weights on its left
// gives. Planes come 16 channels at a time, and leave as sums of proj in registers. Each channel's two passes
// are one warp's, chained in registers.
//
// Shared memory: LN y with a border of 5, and 16 planes of q, over whose upper left corner come its stripes.
#pragma once

#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

template <class P, int NT>
struct Sme {
  using Element = typename P::Element;
  using Word = typename P::Word;
  using Chunk = typename P::Chunk;
  using Format = typename P::WordFormat;
  static constexpr int kChannels = 8 * NT, stride = kStride<P, NT>, kBorder = 5;
  static constexpr int kPitch = 16 + 2 * kBorder;  // of all tiles
  static constexpr int kColumns = kPlanePitch;     // of a plane; the last are zero
  static constexpr int kRounds = (kChannels + 15) / 16,
                       kMost = 2;  // rounds; rows of the tile that are a warp's

  const SmeParams& p;
  const Tiling& at;
  Element *normal, *q;  // [rows, kPitch], [16, plane]

  SM_DEVICE Sme(const SmeParams& params, unsigned char* memory)
      : p(params),
        at(params.at),
        normal(reinterpret_cast<Element*>(memory)),
        q(normal + round_to_fragment(count()) * stride) {}

  // Found where they are needed: registers are scarce.
  SM_DEVICE int warp() const { return threadIdx.x / 32; }
  SM_DEVICE int rows() const { return at.tile_h + 2 * kBorder; }
  SM_DEVICE int count() const { return rows() * kPitch; }
  SM_DEVICE Place* stored_place() const { return reinterpret_cast<Place*>(q + 16 * plane()); }
  SM_DEVICE Region region() const { return Region(at, *stored_place(), kBorder, kPitch); }
  SM_DEVICE int plane() const { return SM_PLANE_ELEMENTS(rows()); }  // elements of one
  SM_DEVICE const Element* in() const {
    return static_cast<const Element*>(p.in) + image_start(at, blockIdx.y, kChannels);
  }

  SM_DEVICE void normalise() {
    const Place place = place_of(at, blockIdx.x);
    if (threadIdx.x == 0) *stored_place() = place;
    const Region region(at, place, kBorder, kPitch);
    stage<P, NT>(normal, in(), at, region, round_to_fragment(region.count()) - region.count());
    __syncthreads();
    const float share = 1.0f / at.dim;
    for (int first = 16 * warp(); first < region.count(); first += 16 * kWarps) {
      Chunk v[NT];
      P::template read<NT, stride>(v, normal + first * stride);
      P::normalise(v, at.dim, share);
      P::template write<NT, stride>(normal + first * stride, v);
    }
  }

  // What the horizontal product reads behind a row's end: times zero.
  SM_DEVICE void clear_behind_rows() {
    for (int row = threadIdx.x; row < 16 * (rows() + 1); row += kThreads)  // planes follow one another
      for (int column = kPitch; column < kColumns - 8; column += 2)
        *reinterpret_cast<Word*>(q + row * kColumns + column) = 0;
  }

  // Planes of channels 16 round and following: GELU(to_q LN y), zero outside the image.
  SM_DEVICE void compute_q(int round) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const Region region = this->region();
    const bool beyond = region.beyond_image(at);
    Matrix<P, 2, NT> weight;  // of channels g and g + 8, in the order of left operands
    weight.fetch(p.to_q.weight, round);
    typename P::template Bias<2> bias;
    bias.fetch(p.to_q.bias + 16 * round);
    const unsigned one = t == 0 ? Format::kOne : 0;
    if (t) bias.w[0] = bias.w[1] = 0;
    // Right operands: of two chunks of channels pixels 0 to 7, then pixels 8 to 15.
    const Element* from =
        normal + ((lane_id() & 7) + (lane_id() >> 4) * 8) * stride + (lane_id() >> 3 & 1) * 8;
    const Element* last_chunk = normal + (lane_id() & 15) * stride + 8 * (NT - 1);
    Element* to = q + g * plane() + 2 * t;
    for (int first = 16 * warp(); first < region.count(); first += 16 * kWarps) {
      unsigned a[NT / 2][4], last[2];
      SM_UNROLL
      for (int k = 0; k < NT / 2; ++k) ldmatrix_x4(a[k], from + first * stride + 16 * k);
      if (NT % 2) ldmatrix_x2(last, last_chunk + first * stride);
      SM_UNROLL
      for (int j = 0; j < 2; ++j) {
        float acc[4];
        Format::mma_k8_first(acc, bias.w, one);
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
        Chunk v = P::gelu(acc);
        if (beyond) {
          const unsigned mask = P::mask(region.shows(at, i), region.shows(at, i + 1));
          v.v[0] &= mask, v.v[1] &= mask;
        }
        // Pixels after the last are in the plane's last row, which has no others.
        Element* here = to + first + 8 * j + region.row_of(i) * (kColumns - region.pitch);
        *reinterpret_cast<Word*>(here) = v.v[0];
        *reinterpret_cast<Word*>(here + 8 * plane()) = v.v[1];
      }
    }
  }

  // Both stripes of the round's planes, in place.
  SM_DEVICE void stripes(int round) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const Region region = this->region();
    const bool beyond = region.y < 0 || region.y + region.rows > at.h;
    for (int channel = warp(); channel < min(16, at.dim - 16 * round); channel += kWarps) {
      Element* from = q + channel * plane();
      // The band's 8 x 8 blocks on the diagonal, right of it, and right of that; the bias.
      const uint4 h = __ldg(static_cast<const uint4*>(p.bands_h) + (16 * round + channel) * 32 + lane_id());
      const uint4 v = __ldg(static_cast<const uint4*>(p.bands_v) + (16 * round + channel) * 32 + lane_id());
      unsigned line[4][2];  // of 8 rows each, columns g and g + 8: rows 2t, 2t + 1
      SM_UNROLL
      for (int b = 0; b < 4; ++b) {
        // Rows after the last stand for what the second pass multiplies by zero.
        const int row = min(8 * b + (lane_id() & 7), region.rows - 1);
        unsigned rows[4];
        ldmatrix_x4(rows, from + row * kColumns + (lane_id() & 24));
        float acc[4];
        banded(acc, h, {rows[0], rows[1]}, {rows[2], rows[3]});
        line[b][0] = Format::pack(acc[0], acc[1]);
        line[b][1] = Format::pack(acc[2], acc[3]);
        if (beyond) {
          const int y = region.y + 8 * b + 2 * t;
          const unsigned mask = P::mask((unsigned)y < (unsigned)at.h, (unsigned)(y + 1) < (unsigned)at.h);
          line[b][0] &= mask, line[b][1] &= mask;
        }
      }
      __syncwarp();  // all lanes have read the plane
      SM_UNROLL
      for (int j = 0; j < 2; ++j) {
        float acc[4];
        banded(acc, v, {line[0][j], line[1][j]}, {line[2][j], line[3][j]});
        Element* to = from + g * kColumns + 8 * j + 2 * t;
        *reinterpret_cast<Word*>(to) = Format::pack(acc[0], acc[1]);
        if (at.tile_h > 8) *reinterpret_cast<Word*>(to + 8 * kColumns) = Format::pack(acc[2], acc[3]);
      }
    }
  }

  // 16 outputs of 8 lines, of which `near` and `far` have 16 inputs each.
  static SM_DEVICE void banded(float (&acc)[4], const uint4& band, uint2 near, uint2 far) {
    const unsigned first[2] = {band.x, 0}, second[2] = {band.y, band.x};
    const unsigned third[2] = {band.z, band.y}, fourth[2] = {0, band.z};
    Format::mma_k16_from(acc, first, second, near, __uint_as_float(band.w));
    Format::mma_k16(acc, third, fourth, far);
  }

  SM_DEVICE Element* tile_row(int row) const {
    return normal + ((row + kBorder) * kPitch + kBorder) * stride;
  }

  // sum += proj (stripes q * v), the round's channels.
  SM_DEVICE void project(int round, float (&sum)[kMost][NT][4]) {
    Matrix<P, 2, NT> to_v;
    Matrix<P, NT, 2> proj;
    typename P::template Bias<2> bias;
    to_v.fetch(p.to_v.weight, round);
    proj.fetch(p.proj.weight, round);
    bias.fetch(p.to_v.bias + 16 * round);
    const Element* planes = q + ((lane_id() & 7) + (lane_id() >> 4) * 8) * plane() + (lane_id() >> 3 & 1) * 8;
    SM_UNROLL
    for (int m = 0; m < kMost; ++m) {
      const int row = warp() + m * kWarps;
      if (row >= at.tile_h) break;
      Chunk a[1][NT], v[1][2];
      float acc[1][2][4];
      P::template read<NT, stride>(a[0], tile_row(row));
      dense<P>(acc, a, to_v, bias);
      gelu_pack<P>(v[0], acc);
      unsigned striped[4];
      ldmatrix_x4_transposed(striped, planes + row * kColumns);
      SM_UNROLL
      for (int c = 0; c < 2; ++c) SM_UNROLL
      for (int half = 0; half < 2; ++half) v[0][c].v[half] = P::mul(v[0][c].v[half], striped[2 * c + half]);
      float (&one)[1][NT][4] = reinterpret_cast<float (&)[1][NT][4]>(sum[m]);
      P::multiply(one, v, proj);
    }
  }

  SM_DEVICE void run() {
    clear_behind_rows();
    normalise();
    float sum[kMost][NT][4];
    typename P::template Bias<NT> bias;
    bias.fetch(p.proj.bias);
    P::begin(sum, bias);
    SM_NO_UNROLL
    for (int round = 0; round < kRounds; ++round) {
      __syncthreads();
      compute_q(round);
      __syncthreads();
      stripes(round);
      __syncthreads();
      project(round, sum);
    }
    SM_UNROLL
    for (int m = 0; m < kMost; ++m) {
      const int row = warp() + m * kWarps;
      if (row >= at.tile_h) break;
      Chunk v[NT];
      SM_UNROLL
      for (int n = 0; n < NT; ++n) v[n] = P::exact(sum[m][n]);
      P::template write<NT, stride>(tile_row(row), v);
    }
    __syncthreads();
    copy_out<P, NT, true>(static_cast<Element*>(p.out) + image_start(at, blockIdx.y, kChannels), in(),
                          tile_row(0), kPitch, at, *stored_place());
  }
};

template <class P, int NT>
SM_DEVICE void sme_kernel(const SmeParams& p) {
  SM_DYNAMIC_SHARED(memory);
  Sme<P, NT>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
