// The precisions of 16-bit activations (numeric.cuh): float16 and bfloat16.
#pragma once

#include "cuda/arithmetic.cuh"

namespace seemore {
namespace cuda {

// A layer's bias as the weights of two inputs that are 1, its upper and lower half: a product with them
// costs less than to load accumulators.
template <class Format, int NT>
struct ProductBias {
  unsigned w[NT];
  SM_DEVICE void fetch(const float* bias) {
    SM_UNROLL
    for (int n = 0; n < NT; ++n)
      w[n] = __ldg(reinterpret_cast<const unsigned*>(bias) + 8 * n + lane_id() / 4);
  }
  SM_DEVICE void fetch_floats(const float* bias, unsigned = 0) {
    SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const float b = __ldg(bias + 8 * n + lane_id() / 4);
      const float high = Format::unpack(Format::pack(b, 0)).x;
      w[n] = Format::pack(b, fabsf(b) <= 65504.0f ? b - high : 0.0f);  // else high may be infinite
    }
  }
};

// The bias of a layer that adds up in pairs of halves (pack.cc): in two registers, as sums of a lane's two
// pixels begin.
template <int NT>
struct PairBias {
  unsigned w[NT][2];

  SM_DEVICE void fetch(const float* bias) {
    SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const uint2 both = __ldg(reinterpret_cast<const uint2*>(bias) + 4 * n + lane_id() % 4);
      w[n][0] = both.x, w[n][1] = both.y;
    }
  }
  // zero: not known to the compiler, which else would need a move for each of a product's two registers.
  SM_DEVICE void fetch_floats(const float* bias, unsigned zero = 0) {
    SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const float2 both = __ldg(reinterpret_cast<const float2*>(bias) + 4 * n + lane_id() % 4);
      w[n][0] = pack_half2(both.x, both.y), w[n][1] = w[n][0] ^ zero;
    }
  }
};

// float16 and bfloat16: Format converts and multiplies.
template <class Format>
struct Narrow {
  using WordFormat = Format;
  using Element = uint16_t;
  using Word = unsigned;
  struct Chunk {
    unsigned v[2];
  };
  using Vec = VecOf<Word>;
  using Sum = typename Format::Sum;
  template <int NT>
  using Bias = ProductBias<Format, NT>;
  template <int NT>
  using SumBias = typename Format::template SumBias<NT>;
  using RowBias = typename Format::RowBias;
  static constexpr int kFragment = 32;
  static constexpr int kChunkWords = 2, kChannelsPerWord = 2, kWordsPerTile = 1;

  static SM_DEVICE Word fma(Word a, Word b, Word c) { return Format::fma(a, b, c); }
  static SM_DEVICE Word add(Word a, Word b) { return Format::add(a, b); }
  static SM_DEVICE Word mul(Word a, Word b) { return Format::mul(a, b); }
  static SM_DEVICE Word splat(float x) { return Format::pack(x, x); }
  static SM_DEVICE Word keep(Word a, unsigned mask) { return a & mask; }
  static SM_DEVICE Word gelu_word(Word a) { return Format::gelu_word(a); }
  static SM_DEVICE Word from_floats(float a, float b) { return Format::pack(a, b); }
  static SM_DEVICE unsigned mask(bool a, bool b) { return (a ? 0xffffu : 0) | (b ? 0xffff0000u : 0); }
  static SM_DEVICE Chunk exact(const float (&c)[4]) { return pack(c); }
  static SM_DEVICE Chunk exact(const unsigned (&c)[2]) { return {{c[0], c[1]}}; }
  static SM_DEVICE float2 unpack(Word a) { return Format::unpack(a); }
  static SM_DEVICE Vec load_vec(const Element* p) {
    const uint4 q = *reinterpret_cast<const uint4*>(p);
    return {{q.x, q.y, q.z, q.w}};
  }
  static SM_DEVICE void store_vec(Element* p, const Vec& v) {
    store_shared(p, {v.w[0], v.w[1], v.w[2], v.w[3]});
  }
  static SM_DEVICE void store_vec_global(Element* p, const Vec& v) {
    store_global(p, {v.w[0], v.w[1], v.w[2], v.w[3]});
  }
  static SM_DEVICE Vec fetch_vec(const void* p, int i) {
    const uint4 q = __ldg(static_cast<const uint4*>(p) + i);
    return {{q.x, q.y, q.z, q.w}};
  }

  static SM_DEVICE Chunk gelu(const float (&c)[4]) {
    return {{Format::gelu_pack(c[0], c[1]), Format::gelu_pack(c[2], c[3])}};
  }
  static SM_DEVICE Chunk gelu(const unsigned (&c)[2]) { return {{gelu_word(c[0]), gelu_word(c[1])}}; }

  template <int KT, int stride>
  static SM_DEVICE void read(Chunk (&a)[KT], const Element* memory) {
    const Element* pair = memory + place_in_pair<stride>();
    SM_UNROLL
    for (int k = 0; k + 1 < KT; k += 2) {
      unsigned both[4];
      ldmatrix_x4(both, pair + 8 * k);
      a[k] = {{both[0], both[1]}};
      a[k + 1] = {{both[2], both[3]}};
    }
    if (KT % 2) ldmatrix_x2(a[KT - 1].v, pair + 8 * (KT - 1));
  }
  // Where the row of two chunks of 16 pixels lies whose address a lane gives.
  template <int stride>
  static SM_DEVICE int place_in_pair() {
    return (lane_id() & 15) * stride + 8 * (lane_id() >> 4);
  }
  // One or two chunks of 16 pixels: row is the lane's address (place_in_pair()).
  static SM_DEVICE void fetch(Chunk (&a)[1], const Element* row) { ldmatrix_x2(a[0].v, row); }
  static SM_DEVICE void fetch(Chunk (&a)[2], const Element* row) {
    unsigned both[4];
    ldmatrix_x4(both, row);
    a[0] = {{both[0], both[1]}};
    a[1] = {{both[2], both[3]}};
  }
  // read() and write() of what is a product's right operands: neighbouring registers hold chunks of the same
  // pixels, where a left operand has the same channels of both eight pixels. It would take a move for each
  // word to have the others' order.
  template <int stride>
  static SM_DEVICE int place_in_columns() {
    return ((lane_id() & 7) + 8 * (lane_id() >> 4)) * stride + (lane_id() & 8);
  }
  template <int KT, int stride>
  static SM_DEVICE void read_columns(Chunk (&a)[KT], const Element* memory) {
    const Element* pair = memory + place_in_columns<stride>();
    SM_UNROLL
    for (int k = 0; k + 1 < KT; k += 2) {
      unsigned both[4];
      ldmatrix_x4(both, pair + 8 * k);
      a[k] = {{both[0], both[2]}};
      a[k + 1] = {{both[1], both[3]}};
    }
    if (KT % 2) ldmatrix_x2(a[KT - 1].v, memory + (lane_id() & 15) * stride + 8 * (KT - 1));
  }
  template <int NT, int stride>
  static SM_DEVICE void write_columns(Element* memory, const Chunk (&a)[NT]) {
    if constexpr (kStoresMatrices && NT <= 5) {
      __syncwarp();
      Element* pair = memory + place_in_columns<stride>();
      SM_UNROLL
      for (int n = 0; n + 1 < NT; n += 2)
        stmatrix_x4(pair + 8 * n, {a[n].v[0], a[n + 1].v[0]}, {a[n].v[1], a[n + 1].v[1]});
      if (NT % 2) stmatrix_x2(memory + (lane_id() & 15) * stride + 8 * (NT - 1), a[NT - 1].v);
    } else {
      write<NT, stride>(memory, a);
    }
  }
  template <int NT, int stride>
  static SM_DEVICE void write(Element* memory, const Chunk (&a)[NT]) {
    write<NT>(a, [memory](int row) { return memory + row * stride; });
  }
  template <int NT, class AddressOf>
  static SM_DEVICE void write(const Chunk (&a)[NT], AddressOf address) {
    __syncwarp();  // read() may have fetched for one lane what another one overwrites
    if constexpr (kStoresMatrices) {
      constexpr int kPaired =
          NT <= 5 ? NT / 2 * 2 : 0;  // of more, four registers in a row would spill others
      Element* pair = address(lane_id() & 15) + 8 * (lane_id() >> 4);  // as read()'s
      SM_UNROLL
      for (int n = 0; n < kPaired; n += 2) stmatrix_x4(pair + 8 * n, a[n].v, a[n + 1].v);
      SM_UNROLL
      for (int n = kPaired; n < NT; ++n) stmatrix_x2(pair + 8 * n, a[n].v);  // of 16 lanes' addresses
    } else {
      SM_UNROLL
      for (int half = 0; half < 2; ++half) {
        Element* to = address(lane_id() / 4 + 8 * half) + 2 * (lane_id() % 4);
        SM_UNROLL
        for (int n = 0; n < NT; ++n) *reinterpret_cast<Word*>(to + 8 * n) = a[n].v[half];
      }
    }
  }

  // Of pixels times themselves, a row's lane of the quad that has the row's own column; and its number there.
  static SM_DEVICE int lane_of_diagonal() { return (lane_id() & ~3) | lane_id() / 8; }
  static SM_DEVICE float of_diagonal(const float (&squares)[4], int half) {
    return lane_id() / 4 % 2 ? squares[2 * half + 1] : squares[2 * half];
  }

  // Sums over channels are matrix products: with ones for the mean, of the pixels with themselves, whose
  // diagonal is wanted, for the variance. Channels beyond dim end up with numbers that nobody needs.
  // Deviations from the mean, rounded, are rounded; what the mean lost is made good where they are scaled.
  template <int KT>
  static SM_DEVICE void normalise(Chunk (&a)[KT], int dim, float share) {
    const unsigned one = Format::kOne;
    float sum[4];
    Format::mma_k16_first(sum, a[0].v, a[1].v, {one, one});
    SM_UNROLL
    for (int k = 2; k + 1 < KT; k += 2) Format::mma_k16(sum, a[k].v, a[k + 1].v, {one, one});
    if (KT % 2) Format::mma_k8(sum, a[KT - 1].v, one);
    float rest[2], padding[2];  // of the squares: channels that are not real
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float mean = sum[2 * half] * share;
      const Word minus = Format::pack(-mean, -mean);
      const float rounded = Format::unpack(minus).x;
      rest[half] = -mean - rounded;
      padding[half] = rounded * rounded * (8 * KT - dim);
      SM_UNROLL
      for (int k = 0; k < KT; ++k) a[k].v[half] = Format::add(a[k].v[half], minus);
    }
    float squares[2][4];
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {  // by 8 channels: of 16 the registers would have to be neighbours
      Format::mma_k8_first(squares[half], a[0].v, a[0].v[half]);
      SM_UNROLL
      for (int k = 1; k < KT; ++k) Format::mma_k8(squares[half], a[k].v, a[k].v[half]);
    }
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float sum_of_squares =
          __shfl_sync(kFullMask, of_diagonal(squares[half], half), lane_of_diagonal());
      const float variance =
          fmaxf(fmaf(sum_of_squares - padding[half], share, -rest[half] * rest[half]), 0.0f);
      const float scale = rsqrtf(variance + 1e-6f);
      const Word factor = Format::pack(scale, scale),
                 shift = Format::pack(rest[half] * scale, rest[half] * scale);
      SM_UNROLL
      for (int k = 0; k < KT; ++k) a[k].v[half] = Format::fma(a[k].v[half], factor, shift);
    }
  }
  // Sums over channels and, by 8 channels at a time (of 16 the registers would have to be neighbours), those
  // of squares, of the pixels with themselves.
  template <int KT>
  static SM_DEVICE void add_up(float (&sum)[4], float (&squares)[2][4], const Chunk (&a)[KT]) {
    const unsigned one = Format::kOne;
    Format::mma_k16_first(sum, a[0].v, a[1].v, {one, one});
    SM_UNROLL
    for (int k = 2; k + 1 < KT; k += 2) Format::mma_k16(sum, a[k].v, a[k + 1].v, {one, one});
    if (KT % 2) Format::mma_k8(sum, a[KT - 1].v, one);
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      Format::mma_k8_first(squares[half], a[0].v, a[0].v[half]);
      SM_UNROLL
      for (int k = 1; k < KT; ++k) Format::mma_k8(squares[half], a[k].v, a[k].v[half]);
    }
  }
  static SM_DEVICE float scale_of(float squares, float minus, float share) {
    return rsqrtf(fmaxf(fmaf(-minus, minus, fmaf(squares, share, 1e-6f)), 1e-6f));
  }
  // LayerNorm's statistics and its affine part. In bf16 in float32: where the two nearly cancel, a number
  // rounded in between would be most of the result's error.
  template <int KT>
  static SM_DEVICE void normalise(Chunk (&a)[KT], int dim, float share, const float2 (&weight)[KT],
                                  const float2 (&bias)[KT]) {
    if constexpr (Format::kIsBf16) {
      float sum[4], squares[2][4];
      add_up(sum, squares, a);
      SM_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float minus = sum[2 * half] * -share;
        const float scale =
                        scale_of(__shfl_sync(kFullMask, of_diagonal(squares[half], half), lane_of_diagonal()),
                                 minus, share),
                    shift = minus * scale;
        SM_UNROLL
        for (int k = 0; k < KT; ++k) {
          const float2 v = Format::unpack(a[k].v[half]);
          a[k].v[half] = Format::pack(fmaf(fmaf(v.x, scale, shift), weight[k].x, bias[k].x),
                                      fmaf(fmaf(v.y, scale, shift), weight[k].y, bias[k].y));
        }
      }
    } else {
      normalise(a, dim, share);
      SM_UNROLL
      for (int k = 0; k < KT; ++k) SM_UNROLL
      for (int half = 0; half < 2; ++half)
        a[k].v[half] = Format::fma(a[k].v[half], Format::pack(weight[k].x, weight[k].y),
                                   Format::pack(bias[k].x, bias[k].y));
    }
  }
  // The statistics but for a number that all channels of a pixel have in addition, and that weights whose
  // rows add up to nothing take away again (pack.cc). So the mean may be rounded, and goes with the scale.
  // What float32 loses of a mean far larger than the deviations is less than what the 16 bits of the pixels
  // have lost.
  template <int KT>
  static SM_DEVICE void normalise_but_for_mean(Chunk (&a)[KT], float share) {
    float sum[4], squares[2][4];
    add_up(sum, squares, a);
    SM_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float minus = sum[2 * half] * -share;
      const float scale = scale_of(of_diagonal(squares[half], half), minus, share);
      const Word here = Format::pack(scale, minus * scale);
      const Word both = __float_as_uint(__shfl_sync(kFullMask, __uint_as_float(here), lane_of_diagonal()));
      const Word factor = low_twice(both), shift = high_twice(both);
      SM_UNROLL
      for (int k = 0; k < KT; ++k) a[k].v[half] = Format::fma(a[k].v[half], factor, shift);
    }
  }
  template <int MT, int NT>
  static SM_DEVICE void begin(float (&acc)[MT][NT][4], const Bias<NT>& bias) {
    const Word one = lane_id() % 4 == 0 ? Format::kOne : 0;
    const unsigned ones[2] = {one, one};
    SM_UNROLL
    for (int m = 0; m < MT; ++m) SM_UNROLL
    for (int n = 0; n < NT; ++n) Format::mma_k8_first(acc[m][n], ones, bias.w[n]);
  }
  template <int MT, int NT>
  static SM_DEVICE void begin(unsigned (&acc)[MT][NT][2], const PairBias<NT>& bias) {
    SM_UNROLL
    for (int m = 0; m < MT; ++m) SM_UNROLL
    for (int n = 0; n < NT; ++n) acc[m][n][0] = bias.w[n][0], acc[m][n][1] = bias.w[n][1];
  }

  template <int MT, int NT, int KT, class Acc>
  static SM_DEVICE void multiply(Acc (&acc)[MT][NT], const Chunk (&a)[MT][KT],
                                 const Matrix<Narrow, NT, KT>& w) {
    SM_UNROLL
    for (int k = 0; k + 1 < KT; k += 2) SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const uint2 b = {w.word(k * NT + 2 * n), w.word(k * NT + 2 * n + 1)};
      SM_UNROLL
      for (int m = 0; m < MT; ++m) Format::mma_k16(acc[m][n], a[m][k].v, a[m][k + 1].v, b);
    }
    if (KT % 2) SM_UNROLL
    for (int n = 0; n < NT; ++n) SM_UNROLL
    for (int m = 0; m < MT; ++m) Format::mma_k8(acc[m][n], a[m][KT - 1].v, w.word((KT - 1) * NT + n));
  }

  // acc += a times NT tiles of w from `first` on, of one fragment.
  template <int NT, int K, int ALL, class Acc>
  static SM_DEVICE void multiply_some(Acc (&acc)[NT], const Chunk (&a)[K], const Matrix<Narrow, ALL, K>& w,
                                      int first) {
    static_assert(K <= 2);
    SM_UNROLL
    for (int n = 0; n < NT; ++n) {
      const int at = K * (first + n);
      if constexpr (K == 2)
        Format::mma_k16(acc[n], a[0].v, a[1].v, {w.word(at), w.word(at + 1)});
      else
        Format::mma_k8(acc[n], a[0].v, w.word(at));
    }
  }

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
  static constexpr bool kIsBf16 = false;
  static constexpr unsigned kOne = 0x3c003c00u;
  using Sum = unsigned[2];
  template <int NT>
  using SumBias = PairBias<NT>;

  struct RowBias {
    unsigned w[2];
    SM_DEVICE void fetch(const float* bias) {
      SM_UNROLL
      for (int i = 0; i < 2; ++i)
        w[i] = low_twice(__ldg(reinterpret_cast<const unsigned*>(bias) + 8 * i + lane_id() / 4));
    }
    SM_DEVICE void begin(Sum& acc) const { acc[0] = w[0], acc[1] = w[1]; }
  };
  static SM_DEVICE unsigned pack(float low, float high) { return pack_half2(low, high); }
  static SM_DEVICE float2 unpack(unsigned both) { return unpack_half2(both); }
  static SM_DEVICE void mma_k16(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) {
    mma_k16_half(d, a0, a1, b);
  }
  static SM_DEVICE void mma_k8(float (&d)[4], const unsigned (&a)[2], unsigned b) { mma_k8_half(d, a, b); }
  static SM_DEVICE void mma_k16(Sum& d, const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) {
    mma_k16_half(d, a0, a1, b);
  }
  static SM_DEVICE void mma_k8(Sum& d, const unsigned (&a)[2], unsigned b) { mma_k8_half(d, a, b); }
  static SM_DEVICE void mma_k16_first(Sum& d, const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) {
    mma_k16_half_first(d, a0, a1, b);
  }
  static SM_DEVICE void mma_k8_first(float (&d)[4], const unsigned (&a)[2], unsigned b) {
    mma_k8_half_first(d, a, b);
  }
  static SM_DEVICE void mma_k16_first(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2],
                                      uint2 b) {
    mma_k16_half_first(d, a0, a1, b);
  }
  static SM_DEVICE unsigned fma(unsigned a, unsigned b, unsigned c) { return fma_half2(a, b, c); }
  static SM_DEVICE unsigned add(unsigned a, unsigned b) { return add_half2(a, b); }
  static SM_DEVICE unsigned mul(unsigned a, unsigned b) { return mul_half2(a, b); }
  static SM_DEVICE unsigned gelu_word(unsigned a) { return gelu_half2(a); }
  static SM_DEVICE unsigned gelu_pack(float low, float high) { return gelu_half2(pack(low, high)); }
};

struct Bf16Format {
  static constexpr bool kIsBf16 = true;
  static constexpr unsigned kOne = 0x3f803f80u;
  using Sum = float[4];
  template <int NT>
  using SumBias = ProductBias<Bf16Format, NT>;

  struct RowBias {
    unsigned w[2];  // of lanes that hold the first two columns of a left operand
    SM_DEVICE void fetch(const float* bias) {
      SM_UNROLL
      for (int i = 0; i < 2; ++i)
        w[i] = lane_id() % 4 ? 0 : __ldg(reinterpret_cast<const unsigned*>(bias) + 8 * i + lane_id() / 4);
    }
    SM_DEVICE void begin(Sum& acc) const { mma_k8_first(acc, w, lane_id() % 4 ? 0 : kOne); }
  };
  static SM_DEVICE unsigned pack(float low, float high) { return pack_bf162(low, high); }
  static SM_DEVICE float2 unpack(unsigned both) { return unpack_bf162(both); }
  static SM_DEVICE void mma_k16(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2], uint2 b) {
    mma_k16_bf16(d, a0, a1, b);
  }
  static SM_DEVICE void mma_k8(float (&d)[4], const unsigned (&a)[2], unsigned b) { mma_k8_bf16(d, a, b); }
  static SM_DEVICE void mma_k8_first(float (&d)[4], const unsigned (&a)[2], unsigned b) {
    mma_k8_bf16_first(d, a, b);
  }
  static SM_DEVICE void mma_k16_first(float (&d)[4], const unsigned (&a0)[2], const unsigned (&a1)[2],
                                      uint2 b) {
    mma_k16_bf16_first(d, a0, a1, b);
  }
  // sm_80 has no sum or product of its own.
  static SM_DEVICE unsigned fma(unsigned a, unsigned b, unsigned c) { return fma_bf162(a, b, c); }
  static SM_DEVICE unsigned add(unsigned a, unsigned b) { return fma_bf162(a, kOne, b); }
  static SM_DEVICE unsigned mul(unsigned a, unsigned b) { return fma_bf162(a, b, 0x80008000u); }
  static SM_DEVICE unsigned gelu_word(unsigned a) {
    const float2 v = unpack(a);
    return gelu_pack(v.x, v.y);
  }
  static SM_DEVICE unsigned gelu_pack(float low, float high) {
    return pack(gelu_to_bf16(low), gelu_to_bf16(high));
  }
};

using Fp16 = Narrow<HalfFormat>;
using Bf16 = Narrow<Bf16Format>;

template <class P>
constexpr bool kIsBf16 = false;
template <class Format>
constexpr bool kIsBf16<Narrow<Format>> = Format::kIsBf16;

}  // namespace cuda
}  // namespace seemore
