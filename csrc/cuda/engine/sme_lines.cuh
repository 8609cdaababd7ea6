// SME's striped attention (sme.cuh) for float32, TF32, and stripes of any length: sums along lines.
//
// Shared memory holds q of QT tiles of 8 channels with halo k / 2; where these are not all channels, the
// stripes' results are kept beside them and q is made in several rounds.
#pragma once

#include "cuda/engine/stripes.cuh"

namespace seemore {
namespace cuda {

// K: the stripes' kernel, or 0 for any.
template <class P, int NT, int QT, int K>
struct SmeLines {
  static constexpr bool kRounds = QT < NT;
  using Element = typename P::Element;
  using Chunk = typename P::Chunk;
  static constexpr int kChannels = 8 * NT;
  static constexpr int q_stride = pixel_stride(8 * QT, sizeof(Element));
  static constexpr int striped_stride = pixel_stride(kChannels, sizeof(Element));

  const SmeParams& p;
  const Tiling& at;
  const int warp, halo, pitch;
  const Place place;
  Element* q;        // [th + k - 1, tw + k - 1], 8 QT channels
  Element* striped;  // with several rounds [th, tw], else over q
  const Element* in;
  Element* out;

  SM_DEVICE SmeLines(const SmeParams& params, unsigned char* memory)
      : p(params),
        at(params.at),
        warp(threadIdx.x / 32),
        halo(p.kernel / 2),
        pitch(at.tile_w + p.kernel - 1),
        place(place_of(at)),
        q(reinterpret_cast<Element*>(memory)),
        striped(kRounds ? q + (at.tile_h + p.kernel - 1) * pitch * q_stride : q),
        in(static_cast<const Element*>(p.in) + image_start(at, blockIdx.z, kChannels)),
        out(static_cast<Element*>(p.out) + image_start(at, blockIdx.z, kChannels)) {}

  // LN of these pixels, as operands.
  SM_DEVICE void load_normal(Chunk (&a)[1][NT], const Pixels& pixels) const {
    float v[NT][4];
    load_pixels<P>(v, in, pixels);
    normalise(v, at.dim);
    pack_all<P>(a[0], v);
  }

  SM_DEVICE void compute_q(int first_tile) {
    const int count = (at.tile_h + p.kernel - 1) * pitch;
    for (int tile = warp; tile * 16 < count; tile += kWarps) {
      const Pixels pixels = pixels_of(at, [&](int row, int& y, int& x) {
        const int i = tile * 16 + row;
        y = place.y - halo + i / pitch;
        x = place.x - halo + i % pitch;
        return i < count;
      });
      Chunk a[1][NT];
      load_normal(a, pixels);
      float v[1][QT][4];
      dense<P, 1, QT, NT>(v, a, p.to_q, first_tile);
      gelu_all(v);
      store_shared<P>(q, q_stride, v[0], pixels, [&](int row) {
        const int i = tile * 16 + row;
        return i < count ? i : -1;
      });
    }
  }

  SM_DEVICE void stripes(int first_tile) {
    const int first = 8 * first_tile;
    const LinesOf<P> region = {q, pitch, q_stride, place.y - halo, place.x - halo};
    horizontal_pass<P, K>(region, at.tile_h + p.kernel - 1, at.tile_w, 4 * QT, first, p.stripe_h, kChannels,
                          p.kernel, at.h);
    __syncthreads();
    vertical_pass<P, K>(region, at.tile_h, at.tile_w, 4 * QT, first, p.stripe_v, kChannels, p.kernel,
                        [&](int row, int column, int pair, float2 value) {
                          Element* to = kRounds ? striped + (row * at.tile_w + column) * striped_stride
                                                : q + (row * pitch + column) * q_stride;
                          P::store_pair(to + first + 2 * pair, value);
                        });
    __syncthreads();
  }

  SM_DEVICE void finish() {
    const int count = at.tile_h * at.tile_w, row_pitch = kRounds ? at.tile_w : pitch;
    for (int tile = warp; tile * 16 < count; tile += kWarps) {
      const Pixels pixels = pixels_of(at, [&](int row, int& y, int& x) {
        const int i = tile * 16 + row;
        y = place.y + i / at.tile_w;
        x = place.x + i % at.tile_w;
        return i < count;
      });
      Chunk a[1][NT];
      load_normal(a, pixels);
      float v[1][NT][4];
      dense<P, 1, NT, NT>(v, a, p.to_v);
      gelu_all(v);
      SM_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int i = min(tile * 16 + lane_id() / 4 + 8 * half, count - 1);
        const Element* from = striped + (i / at.tile_w * row_pitch + i % at.tile_w) * striped_stride;
        SM_UNROLL
        for (int k = 0; k < NT; ++k) {
          const float2 s = P::load_pair(from + 8 * k + 2 * (lane_id() % 4));
          v[0][k][2 * half] *= s.x;
          v[0][k][2 * half + 1] *= s.y;
        }
      }
      pack_all<P>(a[0], v[0]);
      dense<P, 1, NT, NT>(v, a, p.proj);
      float residual[NT][4];
      load_pixels<P>(residual, in, pixels);
      add(v[0], residual);
      store_pixels<P>(out, kChannels, pixels, v[0]);
    }
  }

  SM_DEVICE void run() {
    for (int tile = 0; tile < NT; tile += QT) {
      compute_q(tile);
      __syncthreads();
      stripes(tile);
    }
    finish();
  }
};

template <class P, int NT, int QT, int K>
SM_DEVICE void sme_lines_kernel(const SmeParams& p) {
  SM_DYNAMIC_SHARED(memory);
  SmeLines<P, NT, QT, K>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
