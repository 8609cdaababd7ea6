// The gated feed-forward with its LayerNorm and residual: y + GELU(out (a * gate g)), a and g halves of
// GELU(1x1).
//
// Shared memory, both with a border of 1: y, over which come LN's products a, then a * gate g, then the
// result; and g. With kMix the input is yp plus the chosen experts (mix.cuh), which goes to where the result
// will be.
#pragma once

#include "cuda/engine/mix.cuh"
#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

template <class P, int NT, bool kMix>
struct Ffn {
  using Element = typename P::Element;
  using Chunk = typename P::Chunk;
  using Vec = typename P::Vec;
  static constexpr int kChannels = 8 * NT, stride = kStride<P, NT>;
  static constexpr bool kHeld = kIsSlim<P, NT> && NT <= 5;  // registers hold both matrices of the first layer
  // Where they hold neither, and sums take half as many, two fragments share what is fetched.
  static constexpr int kTogether = kHalfSums<P> && !kHeld ? 2 : 1;
  // Nor do they hold a's bias in the experts' kernel in bf16.
  static constexpr bool kLate = kMix && kIsBf16<P>;

  const FfnParams& p;
  const Tiling& at;
  Element* const a;  // shared memory, of region()

  SM_DEVICE Ffn(const FfnParams& params, unsigned char* memory)
      : p(params), at(params.at), a(reinterpret_cast<Element*>(memory)) {}

  // Found where they are needed: registers are scarce.
  SM_DEVICE Place place() const { return place_found_here(at); }
  SM_DEVICE Region region() const { return Region(at, place(), 1, longer<2>(at)); }
  SM_DEVICE int pitch() const { return at.tile_w + 2; }
  SM_DEVICE int count() const { return (at.tile_h + 2) * pitch(); }  // of region()'s pixels
  SM_DEVICE Element* g() const { return a + round_to_fragment(count()) * stride; }
  SM_DEVICE Element* inner() const { return a + (pitch() + 1) * stride; }  // a's first pixel of the tile
  // What mix.cuh may use.
  SM_DEVICE unsigned char* rest() const {
    return reinterpret_cast<unsigned char*>(g() + round_to_fragment(count()) * stride);
  }
  static SM_DEVICE int warp() { return Mix<P, NT>::warp(); }
  // The image.
  SM_DEVICE const Element* in() const {
    return static_cast<const Element*>(p.in) + image_start(at, blockIdx.z, kChannels);
  }
  SM_DEVICE Element* out() const {
    return static_cast<Element*>(p.out) + image_start(at, blockIdx.z, kChannels);
  }

  SM_DEVICE void normalise(Chunk (&v)[NT], float share) const {
    if constexpr (sizeof(Element) == 2)
      P::normalise_but_for_mean(v, share);
    else
      P::normalise(v, at.dim, share);
  }

  // a and g from LN y. Fragments that have no pixel of the tile need no a.
  SM_DEVICE void first_layer() {
    if constexpr (kHeld) {
      project_by_held();
    } else {
      int first = 16 * warp();
      const int step = 16 * warps();
      SM_NO_UNROLL
      for (; first + (kTogether - 1) * step < count(); first += kTogether * step)
        project<kTogether>(found_here(first));
      if (kTogether > 1 && first < count()) project<1>(first);
    }
  }
  SM_DEVICE bool has_pixels(int first) const {
    return first >= pitch() - 14 && first <= at.tile_h * pitch() + at.tile_w;
  }

  // Of MT fragments, `first` the first pixel of one; the next begins 16 pixels for each warp behind it.
  template <int MT>
  SM_DEVICE void project(int first) {
    const float share = 1.0f / at.dim;
    Chunk normal[MT][NT];
    SM_UNROLL
    for (int m = 0; m < MT; ++m) {
      P::template read<NT, stride>(normal[m], a + (first + 16 * m * warps()) * stride);
      normalise(normal[m], share);
    }
    // In a loop: without, what the second product fetches would come early, and spill.
    SM_NO_UNROLL
    for (int second = 0; second < (MT > 1 || has_pixels(first) ? 2 : 1); ++second) {
      typename P::template SumBias<NT> bias;
      typename P::Sum acc[MT][NT];
      bias.fetch(second ? p.a.bias : p.g.bias);
      P::begin(acc, bias);
      multiply_fetched<P>(acc, normal, second ? p.a.weight : p.g.weight);
      Element* to = (second ? a : g()) + first * stride;
      SM_UNROLL
      for (int m = 0; m < MT; ++m) {
        Chunk v[NT];
        SM_UNROLL
        for (int n = 0; n < NT; ++n) v[n] = P::gelu(acc[m][n]);
        P::template write<NT, stride>(to + 16 * m * warps() * stride, v);
      }
    }
  }

  SM_DEVICE void project_by_held() {
    const float share = 1.0f / at.dim;
    Matrix<P, NT, NT> to_a, to_g;
    typename P::template SumBias<NT> bias_a, bias_g;
    bias_g.fetch(p.g.bias);
    if constexpr (!kLate) bias_a.fetch(p.a.bias);
    to_a.fetch(p.a.weight);
    to_g.fetch(p.g.weight);
    Element *here = a + 16 * warp() * stride, *beside = g() + 16 * warp() * stride;
    for (int first = 16 * warp(); first < count(); first += 16 * warps()) {
      Chunk normal[1][NT], v[NT];
      typename P::Sum acc[1][NT];
      P::template read<NT, stride>(normal[0], here);
      normalise(normal[0], share);
      P::begin(acc, bias_g);
      P::multiply(acc, normal, to_g);
      gelu_pack<P>(v, acc);
      P::template write<NT, stride>(beside, v);
      if (has_pixels(first)) {
        if constexpr (kLate) bias_a.fetch(found_here(p.a.bias));
        P::begin(acc, bias_a);
        P::multiply(acc, normal, to_a);
        gelu_pack<P>(v, acc);
        P::template write<NT, stride>(here, v);
      }
      here += 16 * warps() * stride;
      beside += 16 * warps() * stride;
    }
  }

  // a *= depthwise 3x3 of g.
  SM_DEVICE void gate() {
    if (at.tile_h % 8 == 0)
      gate_by<8>();
    else
      gate_by<kGatedRows<NT>>();
  }
  template <int kRows>
  SM_DEVICE void gate_by() {
    share_columns<kChannels / kUnit<P>, kRows>(
        at, at.tile_h, [this](int unit, int row, int column) { filter<kRows, 2>(unit, row, column); },
        [this](int unit, int row, int column) { filter<kRows, 1>(unit, row, column); });
  }
  // The same of kRows rows of N columns of one unit of channels.
  template <int kRows, int N>
  SM_DEVICE void filter(int unit, int row, int column) {
    constexpr int units = kChannels / kUnit<P>;
    const int start = (row * pitch() + column) * stride + unit * kUnit<P>;
    Vec w[9];
    SM_UNROLL
    for (int tap = 0; tap < 9; ++tap) w[tap] = P::fetch_vec(p.gate.weight, tap * units + unit);
    const Vec bias = P::fetch_vec(p.gate.bias, unit);
    Vec sum[N][kRows + 2];  // of three rows at a time
    SM_UNROLL
    for (int r = 0; r < kRows + 2; ++r) {
      const Element* from = g() + start + r * pitch() * stride;
      SM_UNROLL
      for (int dx = 0; dx < N + 2; ++dx) {
        const Vec v = P::load_vec(from + dx * stride);
        SM_UNROLL
        for (int c = max(dx - 2, 0); c <= min(dx, N - 1); ++c) SM_UNROLL
        for (int dy = 2; dy >= 0; --dy) {
          const int to = r - dy, tap = 3 * dy + dx - c;
          if (to < 0 || to >= kRows) continue;
          SM_UNROLL
          for (int i = 0; i < 4; ++i)
            sum[c][to].w[i] = P::fma(w[tap].w[i], v.w[i], tap ? sum[c][to].w[i] : bias.w[i]);
        }
      }
      if (r < 2) continue;
      SM_UNROLL
      for (int c = 0; c < N; ++c) {
        Element* to = inner() + start + ((r - 2) * pitch() + c) * stride;
        Vec product = P::load_vec(to);
        SM_UNROLL
        for (int i = 0; i < 4; ++i) product.w[i] = P::mul(product.w[i], sum[c][r - 2].w[i]);
        P::store_vec(to, product);
      }
    }
  }

  // GELU(out a), in place.
  SM_DEVICE void last_layer() {
    Matrix<P, NT, NT> weight;
    typename P::template SumBias<NT> bias;
    bias.fetch(p.out_weight.bias);
    if constexpr (kIsSlim<P, NT>) weight.fetch(p.out_weight.weight);
    for_fragments<P, NT>(inner(), pitch(), Below(at, warp(), warps()), at.tile_h, [&](Element* here) {
      Chunk v[1][NT];
      typename P::Sum acc[1][NT];
      P::template read<NT, stride>(v[0], here);
      P::begin(acc, bias);
      if constexpr (kIsSlim<P, NT>)
        P::multiply(acc, v, weight);
      else
        multiply_fetched<P>(acc, v, p.out_weight.weight);
      gelu_pack<P>(v[0], acc);
      P::template write<NT, stride>(here, v[0]);
    });
  }

  SM_DEVICE void run() {
    stage<P, NT>(a, in(), at, region(), round_to_fragment(count()) - count());
    if constexpr (kMix) {
      Mix<P, NT>(p.mix, at, region(), rest()).run(a, g());
      copy_out<P, NT, false>(out(), nullptr, inner(), pitch(), at, place(), warp());
    }
    __syncthreads();
    first_layer();
    __syncthreads();
    if (region().beyond_image(at)) {
      clear_beyond<P, NT>(g(), at, region());
      __syncthreads();
    }
    gate();
    __syncthreads();
    last_layer();
    __syncthreads();
    copy_out<P, NT, true>(out(), kMix ? out() : in(), inner(), pitch(), at, place());
  }
};

template <class P, int NT, bool kMix>
SM_DEVICE void ffn_kernel(const FfnParams& p) {
  SM_DYNAMIC_SHARED(memory);
  Ffn<P, NT, kMix>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
