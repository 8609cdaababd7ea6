// The precisions of 32-bit activations (numeric.cuh): true float32 and TensorFloat-32.
#pragma once

#include "cuda/arithmetic.cuh"

namespace seemore {
namespace cuda {
// Activations as float32; P, the precision that derives from this, says how operands are packed.
template <class P>
struct Wide {
  using Element = float;
  using Word = float;
  struct Chunk {
    float v[4];
  };
  using Vec = VecOf<Word>;
  using Sum = float[4];
  static constexpr int kFragment = 64;  // words of an 8 x 8 block of weights
  static constexpr int kChunkWords = 4, kChannelsPerWord = 1;

  static SM_DEVICE Word fma(Word a, Word b, Word c) { return fmaf(a, b, c); }
  static SM_DEVICE Word add(Word a, Word b) { return a + b; }
  static SM_DEVICE Word mul(Word a, Word b) { return a * b; }
  static SM_DEVICE Word splat(float x) { return x; }
  static SM_DEVICE Word keep(Word a, unsigned mask) { return __uint_as_float(__float_as_uint(a) & mask); }
  static SM_DEVICE Word gelu_word(Word a) { return cuda::gelu(a); }
  static SM_DEVICE Word from_floats(float a, float) { return a; }
  static SM_DEVICE unsigned mask(bool a, bool) { return a ? 0xffffffffu : 0; }
  // A chunk that is not an operand: not rounded to one's precision.
  static SM_DEVICE Chunk exact(const float (&c)[4]) { return {{c[0], c[1], c[2], c[3]}}; }
  static SM_DEVICE float2 unpack(Word a) { return make_float2(a, 0); }
  static SM_DEVICE Vec load_vec(const Element* p) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    return {{q.x, q.y, q.z, q.w}};
  }
  static SM_DEVICE void store_vec(Element* p, const Vec& v) {
    const float4 all = {v.w[0], v.w[1], v.w[2], v.w[3]};
    *reinterpret_cast<float4*>(p) = all;
  }
  static SM_DEVICE void store_vec_global(Element* p, const Vec& v) {
    store_global(p, {__float_as_uint(v.w[0]), __float_as_uint(v.w[1]), __float_as_uint(v.w[2]),
                     __float_as_uint(v.w[3])});
  }
  static SM_DEVICE Vec fetch_vec(const void* p, int i) {
    const float4 q = __ldg(static_cast<const float4*>(p) + i);
    return {{q.x, q.y, q.z, q.w}};
  }

  static SM_DEVICE Chunk gelu(const float (&c)[4]) {
    float v[4];
    SM_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = cuda::gelu(c[i]);
    return P::pack(v);
  }

  template <int KT, int stride>
  static SM_DEVICE void read(Chunk (&a)[KT], const Element* memory) {
    const Element* upper = memory + lane_id() / 4 * stride + 2 * (lane_id() % 4);
    SM_UNROLL
    for (int k = 0; k < KT; ++k) {
      const float2 u = load_pair(upper + 8 * k), l = load_pair(upper + 8 * stride + 8 * k);
      const float both[4] = {u.x, u.y, l.x, l.y};
      a[k] = P::pack(both);
    }
  }
  template <int NT, int stride>
  static SM_DEVICE void write(Element* memory, const Chunk (&a)[NT]) {
    write<NT>(a, [memory](int row) { return memory + row * stride; });
  }
  template <int NT, class AddressOf>
  static SM_DEVICE void write(const Chunk (&a)[NT], AddressOf address) {
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      Element* to = address(lane_id() / 4 + 8 * half) + 2 * (lane_id() % 4);
      SM_UNROLL
      for (int n = 0; n < NT; ++n)
        store_pair(to + 8 * n, make_float2(a[n].v[2 * half], a[n].v[2 * half + 1]));
    }
  }

  template <int KT>
  static SM_DEVICE void normalise(Chunk (&a)[KT], int dim, float share) {
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      float sum = 0;
      SM_UNROLL
      for (int k = 0; k < KT; ++k) sum += a[k].v[2 * half] + a[k].v[2 * half + 1];
      const float mean = quad_sum(sum) * share;
      float squares = 0;
      SM_UNROLL
      for (int k = 0; k < KT; ++k) SM_UNROLL
      for (int i = 0; i < 2; ++i) {
        float& x = a[k].v[2 * half + i];
        x = 8 * k + 2 * (lane_id() % 4) + i < dim ? x - mean : 0.0f;
        squares = fmaf(x, x, squares);
      }
      const float scale = rsqrtf(fmaf(quad_sum(squares), share, 1e-6f));
      SM_UNROLL
      for (int k = 0; k < KT; ++k) a[k].v[2 * half] *= scale, a[k].v[2 * half + 1] *= scale;
    }
    SM_UNROLL
    for (int k = 0; k < KT; ++k) a[k] = P::pack(a[k].v);
  }

  // The same, then weight * a + bias.
  template <int KT>
  static SM_DEVICE void normalise(Chunk (&a)[KT], int dim, float share, const float2 (&weight)[KT],
                                  const float2 (&bias)[KT]) {
    normalise(a, dim, share);
    SM_UNROLL
    for (int k = 0; k < KT; ++k) SM_UNROLL
    for (int i = 0; i < 4; ++i)
      a[k].v[i] = i % 2 ? fmaf(a[k].v[i], weight[k].y, bias[k].y) : fmaf(a[k].v[i], weight[k].x, bias[k].x);
  }

  // What accumulators start at: a layer's bias.
  template <int NT>
  struct Bias {
    float2 w[NT];
    SM_DEVICE void fetch(const float* bias) {
      SM_UNROLL
      for (int n = 0; n < NT; ++n)
        w[n] = __ldg(reinterpret_cast<const float2*>(bias + 8 * n + 2 * (lane_id() % 4)));
    }
    SM_DEVICE void fetch_floats(const float* bias, unsigned = 0) { fetch(bias); }
  };
  template <int NT>
  using SumBias = Bias<NT>;
  template <int MT, int NT>
  static SM_DEVICE void begin(float (&acc)[MT][NT][4], const Bias<NT>& bias) {
    SM_UNROLL
    for (int m = 0; m < MT; ++m) SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      acc[m][n][0] = acc[m][n][2] = bias.w[n].x;
      acc[m][n][1] = acc[m][n][3] = bias.w[n].y;
    }
  }

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
  static constexpr int kWordsPerTile = 4;
  static SM_DEVICE Chunk pack(const float (&c)[4]) { return {{c[0], c[1], c[2], c[3]}}; }

  // Three products of TensorFloat-32, of the operands' upper and lower halves: what is lost is 2^-22 of a
  // product. Tensor cores may truncate sums, so they add up 8 KT products at most, float32 the rest.
  template <int MT, int NT, int KT>
  static SM_DEVICE void multiply(float (&acc)[MT][NT][4], const Chunk (&a)[MT][KT],
                                 const Matrix<Fp32, NT, KT>& w) {
    float part[MT][NT][4] = {};
    SM_UNROLL
    for (int k = 0; k < KT; ++k) {
      float high[MT][4], low[MT][4];
      SM_UNROLL
      for (int m = 0; m < MT; ++m) SM_UNROLL
      for (int i = 0; i < 4; ++i) {
        high[m][i] = round_tf32(a[m][k].v[i]);
        low[m][i] = round_tf32(a[m][k].v[i] - high[m][i]);
      }
      SM_UNROLL
      for (int n = 0; n < NT; ++n) {
        auto value = [&](int i) { return __uint_as_float(w.word(4 * (k * NT + n) + i)); };
        const float2 upper = make_float2(value(0), value(1)), lower = make_float2(value(2), value(3));
        SM_UNROLL
        for (int m = 0; m < MT; ++m) {
          mma_k8_tf32(part[m][n], low[m][0], low[m][2], low[m][1], low[m][3], upper);
          mma_k8_tf32(part[m][n], high[m][0], high[m][2], high[m][1], high[m][3], lower);
          mma_k8_tf32(part[m][n], high[m][0], high[m][2], high[m][1], high[m][3], upper);
        }
      }
    }
    SM_UNROLL
    for (int m = 0; m < MT; ++m) SM_UNROLL
    for (int n = 0; n < NT; ++n) SM_UNROLL
    for (int i = 0; i < 4; ++i) acc[m][n][i] += part[m][n][i];
  }

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
  static constexpr int kWordsPerTile = 2;
  static SM_DEVICE Chunk pack(const float (&c)[4]) {
    return {{round_tf32(c[0]), round_tf32(c[1]), round_tf32(c[2]), round_tf32(c[3])}};
  }

  template <int MT, int NT, int KT>
  static SM_DEVICE void multiply(float (&acc)[MT][NT][4], const Chunk (&a)[MT][KT],
                                 const Matrix<Tf32, NT, KT>& w) {
    SM_UNROLL
    for (int k = 0; k < KT; ++k) SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const int i = 2 * (k * NT + n);
      const float2 b = make_float2(__uint_as_float(w.word(i)), __uint_as_float(w.word(i + 1)));
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        const float (&v)[4] = a[m][k].v;
        mma_k8_tf32(acc[m][n], v[0], v[2], v[1], v[3], b);
      }
    }
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

}  // namespace cuda
}  // namespace seemore
