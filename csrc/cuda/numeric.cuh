// The four precisions: how activations are stored and how warps multiply matrices in each.
//
// A policy P has Element (an activation in memory), Chunk (8 channels of 16 pixels in the registers of a
// warp: lane 4 g + t holds channels 2t, 2t + 1 of pixels g and g + 8) and
//   pack(c)          a chunk from accumulators, whose layout is the same: results chain into the next product
//   load_pair(p), store_pair(p, v)        two channels in memory
//   load<KT>(a, memory, stride, pixel)    KT chunks of the pixels pixel(0) .. pixel(15) from shared memory
//   multiply<MT, NT, KT>(acc, a, w, tiles, first)  acc[m][n] += a[m] W: 16 MT pixels, 8 KT channels to those
//   of
//                                                  tiles first .. first + NT - 1 of 8 outputs
// Weights lie in fragments as pack.h makes them: a lane's share of a product is one aligned load.
#pragma once

#include "cuda/ptx.cuh"

namespace seemore {
namespace cuda {

// GELU(x) = max(x, 0) - |x| 2^p(|x|), absolute error below 1e-6 (docs/cuda-engine.md). NaN stays NaN.
SM_DEVICE float gelu(float x) {
  const float a = fminf(fabsf(x), 20.0f);  // far out 2^p is 0; infinity times 0 would be NaN
  float p = -0.00047329405f;
  p = fmaf(p, a, 0.0070844615f);
  p = fmaf(p, a, -0.05182717f);
  p = fmaf(p, a, -0.45999264f);
  p = fmaf(p, a, -1.1507878f);
  p = fmaf(p, a, -1.0000376f);
  return fmaf(-a, exp2_approx(p), max_nan(x, 0.0f));
}

SM_DEVICE int lane_id() { return threadIdx.x & 31; }

// Activations as float32; P, the precision that derives from this, says how operands are packed.
template <class P>
struct Wide {
  using Element = float;
  using Word = float;
  struct Chunk {
    float v[4];
  };
  static constexpr int kFragment = 64;  // words of an 8 x 8 block of weights

  static SM_DEVICE float2 load_pair(const Element* p) { return *reinterpret_cast<const float2*>(p); }
  static SM_DEVICE void store_pair(Element* p, float2 v) { *reinterpret_cast<float2*>(p) = v; }

  template <int KT, class PixelOf>
  static SM_DEVICE void load_wide(float (&a)[KT][4], const Element* memory, int stride, PixelOf pixel) {
    const int g = lane_id() / 4, t = lane_id() % 4;
    const Element *upper = memory + pixel(g) * stride + 2 * t,
                  *lower = memory + pixel(g + 8) * stride + 2 * t;
    SM_UNROLL
    for (int k = 0; k < KT; ++k) {
      const float2 u = load_pair(upper + 8 * k), l = load_pair(lower + 8 * k);
      a[k][0] = u.x, a[k][1] = u.y, a[k][2] = l.x, a[k][3] = l.y;
    }
  }

  template <int KT, class PixelOf>
  static SM_DEVICE void load(Chunk (&a)[KT], const Element* memory, int stride, PixelOf pixel) {
    float wide[KT][4];
    load_wide<KT>(wide, memory, stride, pixel);
    SM_UNROLL
    for (int k = 0; k < KT; ++k) a[k] = P::pack(wide[k]);
  }
};

// True float32: every product by FFMA.
struct Fp32 : Wide<Fp32> {
  static SM_DEVICE Chunk pack(const float (&c)[4]) { return {{c[0], c[1], c[2], c[3]}}; }

  // Weights: [k / 8][tiles][t][8 channels][2].
  template <int MT, int NT, int KT>
  static SM_DEVICE void multiply(float (&acc)[MT][NT][4], const Chunk (&a)[MT][KT], const Word* w, int tiles,
                                 int first) {
    const int lane = lane_id(), quad = lane & ~3, t = lane % 4;
    // Rolled over i: unrolled, ptxas would fetch more weights ahead than registers hold.
    SM_UNROLL
    for (int k = 0; k < KT; ++k) SM_NO_UNROLL
    for (int i = 0; i < 8; i += 2) {
      float x[MT][2][2];  // [channel i, i + 1][pixel g, g + 8]: they lie in another lane of the quad
      SM_UNROLL
      for (int m = 0; m < MT; ++m) SM_UNROLL
      for (int j = 0; j < 4; ++j) x[m][j % 2][j / 2] = __shfl_sync(kFullMask, a[m][k].v[j], quad | i / 2);
      SM_UNROLL
      for (int n = 0; n < NT; ++n) {
        const float4 b = __ldg(reinterpret_cast<const float4*>(
            w + ((size_t)k * tiles + first + n) * kFragment + t * 16 + 2 * i));
        SM_UNROLL
        for (int m = 0; m < MT; ++m) {
          float (&c)[4] = acc[m][n];
          c[0] = fmaf(x[m][1][0], b.z, fmaf(x[m][0][0], b.x, c[0]));
          c[1] = fmaf(x[m][1][0], b.w, fmaf(x[m][0][0], b.y, c[1]));
          c[2] = fmaf(x[m][1][1], b.z, fmaf(x[m][0][1], b.x, c[2]));
          c[3] = fmaf(x[m][1][1], b.w, fmaf(x[m][0][1], b.y, c[3]));
        }
      }
    }
  }
};

// Operands rounded to TensorFloat-32, the rest in float32.
struct Tf32 : Wide<Tf32> {
  static SM_DEVICE Chunk pack(const float (&c)[4]) {
    return {{round_tf32(c[0]), round_tf32(c[1]), round_tf32(c[2]), round_tf32(c[3])}};
  }

  // Weights: [k / 8][tiles][lane][2]. Channels 2t and 2t + 1 stand where the instruction has t and t + 4.
  template <int MT, int NT, int KT>
  static SM_DEVICE void multiply(float (&acc)[MT][NT][4], const Chunk (&a)[MT][KT], const Word* w, int tiles,
                                 int first) {
    const int lane = lane_id();
    SM_UNROLL
    for (int k = 0; k < KT; ++k) SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const float2 b =
          __ldg(reinterpret_cast<const float2*>(w + ((size_t)k * tiles + first + n) * kFragment + 2 * lane));
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        const float (&v)[4] = a[m][k].v;
        mma_k8_tf32(acc[m][n], v[0], v[2], v[1], v[3], b);
      }
    }
  }
};

// float16 and bfloat16: Format converts and multiplies.
template <class Format>
struct Narrow {
  using Element = uint16_t;
  using Word = unsigned;
  struct Chunk {
    unsigned v[2];
  };
  static constexpr int kFragment = 32;

  static SM_DEVICE float2 load_pair(const Element* p) {
    return Format::unpack(*reinterpret_cast<const unsigned*>(p));
  }
  static SM_DEVICE void store_pair(Element* p, float2 v) {
    *reinterpret_cast<unsigned*>(p) = Format::pack(v.x, v.y);
  }
  static SM_DEVICE Chunk pack(const float (&c)[4]) {
    return {{Format::pack(c[0], c[1]), Format::pack(c[2], c[3])}};
  }

  template <int KT, class PixelOf>
  static SM_DEVICE void load(Chunk (&a)[KT], const Element* memory, int stride, PixelOf pixel) {
    const int lane = lane_id();
    const Element* row = memory + pixel(lane & 15) * stride;
    SM_UNROLL
    for (int k = 0; k + 1 < KT; k += 2) {
      unsigned both[4];
      ldmatrix_x4(both, row + 8 * (k + (lane >> 4)));
      a[k] = {{both[0], both[1]}};
      a[k + 1] = {{both[2], both[3]}};
    }
    if (KT % 2) ldmatrix_x2(a[KT - 1].v, row + 8 * (KT - 1));
  }

  // Weights: [k / 16][tiles][lane][2], then for an odd chunk [tiles][lane].
  template <int MT, int NT, int KT>
  static SM_DEVICE void multiply(float (&acc)[MT][NT][4], const Chunk (&a)[MT][KT], const Word* w, int tiles,
                                 int first) {
    const int lane = lane_id();
    SM_UNROLL
    for (int k = 0; k + 1 < KT; k += 2) SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const uint2 b = __ldg(
          reinterpret_cast<const uint2*>(w + ((size_t)k * tiles + 2 * (first + n)) * kFragment + 2 * lane));
      SM_UNROLL
      for (int m = 0; m < MT; ++m) Format::mma_k16(acc[m][n], a[m][k].v, a[m][k + 1].v, b);
    }
    if (KT % 2) SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const unsigned b = __ldg(w + ((size_t)(KT - 1) * tiles + first + n) * kFragment + lane);
      SM_UNROLL
      for (int m = 0; m < MT; ++m) Format::mma_k8(acc[m][n], a[m][KT - 1].v, b);
    }
  }
};

struct HalfFormat {
  static SM_DEVICE unsigned pack(float low, float high) { return pack_half2(low, high); }
  static SM_DEVICE float2 unpack(unsigned both) { return unpack_half2(both); }
  static SM_DEVICE void mma_k16(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) {
    mma_k16_half(d, a0, a1, b);
  }
  static SM_DEVICE void mma_k8(float (&d)[4], const unsigned (&a)[2], unsigned b) { mma_k8_half(d, a, b); }
};

struct Bf16Format {
  static SM_DEVICE unsigned pack(float low, float high) { return pack_bf162(low, high); }
  static SM_DEVICE float2 unpack(unsigned both) { return unpack_bf162(both); }
  static SM_DEVICE void mma_k16(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) {
    mma_k16_bf16(d, a0, a1, b);
  }
  static SM_DEVICE void mma_k8(float (&d)[4], const unsigned (&a)[2], unsigned b) { mma_k8_bf16(d, a, b); }
};

using Fp16 = Narrow<HalfFormat>;
using Bf16 = Narrow<Bf16Format>;

// For __launch_bounds__, the blocks of a kernel that a multiprocessor is to hold: 2 leave a thread 128
// registers, 1 all 255. Where it is not told, ptxas aims at a number of its own, and spills a few registers
// where that was too high; tests/cuda/test_build.py watches over the kernels that let it.
constexpr int kPtxasChooses = 0;

// Whether the registers of two blocks hold all channels of a warp's pixels: input, hidden layer and output.
template <class P, int NT>
constexpr bool kIsSlim = sizeof(typename P::Element) == 2 && NT <= 6;

template <class P, int NT>
constexpr int kBlocksOfDense = kIsSlim<P, NT> ? kPtxasChooses : 1;

}  // namespace cuda
}  // namespace seemore
