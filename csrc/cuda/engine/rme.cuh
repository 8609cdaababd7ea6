// RME up to the pooling barrier: LN, conv 3x3, GELU, the x and k halves, stripes of 3, the projections that
// the second half needs, the first aggregation, and the router's logits of the block's pixels.
//
// Shared memory: the normalised input with a border of 2, over which comes x with a border of 1, a round of
// all warps after another; k with a border of 1, over which come the stripes' results. P x comes over one or
// the other. Both have the pitch of the first.
#pragma once

#include "cuda/engine/ranks.cuh"
#include "cuda/engine/region.cuh"

namespace seemore {
namespace cuda {

// MT: fragments that share the weights of conv 3x3, below each other.
template <class P, int NT, int MT>
struct Rme {
  using Element = typename P::Element;
  using Word = typename P::Word;
  using Chunk = typename P::Chunk;
  using Vec = typename P::Vec;
  using Ranks = RmeRanks<P, NT>;
  using Logits = RmeLogits<P, NT>;
  static constexpr int kChannels = 8 * NT, kUnits = kChannels / kUnit<P>, stride = kStride<P, NT>;
  static constexpr int kRows = kStripedRows<sizeof(Element)>;
  static constexpr bool kFused = kIsSlim<P, NT> && NT <= 5;  // registers hold P's weights and 16 rows of B's
  // Else half of the warps have P's, and the others B's and the router's: each fetches half as many, and has
  // twice as many pixels for them. So much work is P x that half of the warps would be late with it in
  // other formats.
  static constexpr bool kSplit = kIsSlim<P, NT> && !kFused;

  // Tiles have 8 n rows, and 2 of border: of bands of four the last has two. Such bands leave out their last
  // two columns, which nobody needs: a group of fragments less, for more conflicts of banks.
  static constexpr bool kUneven = MT == 4;
  static constexpr int kLast = kUneven ? 2 : MT, kLeftOut = kUneven ? 2 : 0;

  // What shared memory begins with: the tile's place, and where k lies.
  struct alignas(16) Kept {
    Place place;
    int k;        // elements behind normal()
    int rows;     // of the tile that are the image's
    int columns;  // of bands that have pixels of the image
    int beyond;   // whether the tile with a border of 2 reaches out of the image
  };
  static_assert(sizeof(Kept) == kKeptByRme);

  const RmeParams& p;
  const Tiling& at;
  unsigned char* const memory;

  SM_DEVICE Rme(const RmeParams& params, unsigned char* shared) : p(params), at(params.at), memory(shared) {}

  // Found where they are needed: registers are scarce.
  SM_DEVICE int pitch() const { return at.tile_w + 4; }
  // Pixels with a border of 1 come in bands of MT rows. A fragment is 16 columns of a band, or the last ones
  // of a band and the first ones of the next: column i of all, one after another, is the pixel at
  SM_DEVICE int place_of_column(int i) const {
    return i + band_of(i) * (MT - 1) * (found_here(at.tile_w) + 4);  // pitch(): a register less if not kept
  }
  SM_DEVICE int width() const { return pitch() - kLeftOut; }  // of a band
  SM_DEVICE int band_of(int i) const {                        // i / width()
    return i * (at.tile_w == 32 ? kInverse<36 - kLeftOut> : kInverse<20 - kLeftOut>) >> 16;
  }
  // The same in a tile whose last band has kLast rows. Fragments that all lie in it are M = kLast; of others,
  // of MT, it begins so much earlier, and the first ones, which are above it, are dropped. In a second round
  // those rows could be x already: plan.cc has tiles of one round alone.
  template <int M>
  SM_DEVICE int place_in_uneven(int i) const {
    const int band = band_of(i);
    return i - band * width() + min(band * MT, at.tile_h + 2 - M) * pitch();
  }
  template <int M>
  SM_DEVICE bool is_above_last(int i, int m) const {
    return M == MT && m < MT - kLast && i >= columns() - width();
  }
  // Its upper left neighbour. The last two columns of a band, which nobody needs, get another's: theirs would
  // be in the next row, over which x may have come.
  template <int M>
  SM_DEVICE int neighbour_of_column(int i) const {
    if constexpr (kUneven) return place_in_uneven<M>(min(i, columns() - 1));
    return place_of_column(MT > 1 ? min(i, band_of(i) * pitch() + pitch() - 3) : i);
  }
  SM_DEVICE int bands() const { return (at.tile_h + MT + 1) / MT; }
  SM_DEVICE int columns() const { return bands() * width(); }
  // Columns after the last, of the last fragment, have one place each behind all bands.
  SM_DEVICE int down(int i) const { return kUneven || i < kept()->columns ? pitch() : 0; }
  // Where pixel `row` of fragment m goes whose first one has column `first`.
  template <int M>
  SM_DEVICE int place_of_pixel(int first, int row, int m) const {
    const int i = first + row;
    if constexpr (kUneven) {
      if (M == MT ? is_above_last<M>(i, m) : i >= columns())  // of no use: behind all rows
        return (at.tile_h + 2) * pitch() + (M == MT ? 16 : 0) + row;
      return place_in_uneven<M>(i) + m * pitch();
    }
    return place_of_column(i) + m * down(i);
  }
  SM_DEVICE int normal_pixels() const {
    return kUneven ? (at.tile_h + 4) * pitch() : columns() * MT + 16 + 2 * pitch() + 2;
  }
  SM_DEVICE Kept* kept() const { return reinterpret_cast<Kept*>(memory); }
  SM_DEVICE Place place() const { return kept()->place; }  // of the tile
  SM_DEVICE Element* normal() const { return reinterpret_cast<Element*>(kept() + 1); }
  SM_DEVICE Element* x() const { return normal(); }
  SM_DEVICE Element* k() const { return normal() + kept()->k; }
  SM_DEVICE Element* striped() const { return k(); }
  SM_DEVICE bool reaches_out() const { return kept()->beyond; }
  SM_DEVICE int warp() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 1000
    return thread_found_here() / 32;  // else ptxas spills it
#else
    return threadIdx.x / 32;
#endif
  }

  SM_DEVICE const Element* in() const {
    return static_cast<const Element*>(p.in) + image_start(at, blockIdx.z, kChannels);
  }

  SM_DEVICE void normalise() {
    const Place place = place_of(at);
    const Region wide(at, place, 2, longer<4>(at));
    if (threadIdx.x == 0) {
      const int rows = min(at.tile_h + 2, at.h - place.y + 1);
      *kept() = {place, normal_pixels() * stride, min(at.tile_h, at.h - place.y),
                 min((rows + MT - 1) / MT * width(), columns()), wide.beyond_image(at)};
    }
    stage<P, NT>(normal(), in(), at, wide, normal_pixels() - wide.count());
    __syncthreads();
    constexpr int words = P::kChunkWords / 2;
    const int end = min(at.tile_h + 4, at.h - wide.y) * wide.pitch;  // zeros follow
    const float share = 1.0f / at.dim;
    Word weight[NT][words], bias[NT][words];
    fetch_affine(weight, bias);
    Element* here = normal() + 16 * warp() * stride;
    for (int first = 16 * warp(); first < end; first += 16 * warps()) {
      Chunk v[NT];
      P::template read<NT, stride>(v, here);
      P::normalise(v, at.dim, share);
      SM_UNROLL
      for (int c = 0; c < NT; ++c) SM_UNROLL
      for (int i = 0; i < 2 * words; ++i)
        v[c].v[i] = P::fma(v[c].v[i], weight[c][i % words], bias[c][i % words]);
      P::template write<NT, stride>(here, v);
      here += 16 * warps() * stride;
    }
  }

  // LayerNorm's affine part, of the lane's channels.
  template <int words>
  SM_DEVICE void fetch_affine(Word (&weight)[NT][words], Word (&bias)[NT][words]) {
    if constexpr (words == 1) {
      constexpr int kVectors = (2 * NT + 3) / 4;
      uint4 v[kVectors];
      SM_UNROLL
      for (int i = 0; i < kVectors; ++i)
        v[i] = __ldg(static_cast<const uint4*>(p.norm.weight) + 4 * i + lane_id() % 4);
      auto word = [&](int i) { return word_of(v[i / 4], i % 4); };
      SM_UNROLL
      for (int c = 0; c < NT; ++c) weight[c][0] = word(c), bias[c][0] = word(NT + c);
    } else {
      SM_UNROLL
      for (int c = 0; c < NT; ++c) SM_UNROLL
      for (int i = 0; i < words; ++i) {
        const int channel = 8 * c + 2 * (lane_id() % 4) + i;
        weight[c][i] = __ldg(static_cast<const Word*>(p.norm.weight) + channel);
        bias[c][i] = __ldg(static_cast<const Word*>(p.norm.bias) + channel);
      }
    }
  }

  // t = GELU(conv); x = to_x t, k = to_k t. x comes over pixels that no later round reads.
  SM_DEVICE void convolve() {
    // As long as the first warp has pixels.
    for (int round = 0; round < kept()->columns; round += 16 * warps()) {
      auto first_found_here = [&] { return round + first_of_warp(); };
      auto is_last = [&] { return kUneven && first_found_here() >= columns() - width(); };
      Chunk t[MT][NT];
      if (first_found_here() < kept()->columns) {
        if (is_last())
          convolve_band<kLast>(t, round);
        else
          convolve_band<MT>(t, round);
      }
      __syncthreads();
      if (first_found_here() < kept()->columns) {
        if (is_last())
          half<true, kLast>(t, p.to_x, first_found_here());
        else
          half<true, MT>(t, p.to_x, first_found_here());
      }
    }
  }
  // A round's first column of the warp's fragments; a register less if not kept.
  SM_DEVICE int first_of_warp() const { return 16 * (thread_found_here() / 32); }
  // t and k of M fragments below each other.
  template <int M>
  SM_DEVICE void convolve_band(Chunk (&t)[MT][NT], int round) {
    const int first = round + first_of_warp();
    typename P::template SumBias<NT> bias;
    typename P::Sum acc[M][NT];
    bias.fetch_floats(found_here(p.conv.bias));  // as words it would be fetched early, and spill
    P::begin(acc, bias);
    convolve3x3<P, NT>(
        acc, normal(), [&](int row) { return neighbour_of_column<M>(first + row); },
        [&](int row) { return down(first + row); }, found_here(p.conv.weight), 0);
    SM_UNROLL
    for (int m = 0; m < M; ++m) SM_UNROLL
    for (int c = 0; c < NT; ++c) t[m][c] = P::gelu(acc[m][c]);
    half<false, M>(t, p.to_k, round + first_of_warp());
  }

  // One half of the 1x1 convolution, x or k.
  template <bool kX, int M>
  SM_DEVICE void half(const Chunk (&t)[MT][NT], const Dense& layer, int first) {
    constexpr bool kHeld = sizeof(Element) == 2;
    // Tiles of outputs at a time: of more the registers do not hold the weights beside t.
    constexpr int kAtOnce = kHeld && MT * NT >= 24 && NT % 2 == 0 ? 2 : NT;
    Element* const buffer = kX ? x() : k();
    SM_NO_UNROLL
    for (int part = 0; part < NT / kAtOnce; ++part) {
      Matrix<P, kAtOnce, NT> matrix;
      typename P::template SumBias<kAtOnce> bias;
      const void* weight = found_here(layer.weight);
      if constexpr (kHeld)
        matrix.fetch_own(static_cast<const uint4*>(weight) + 32 * part + lane_id(), NT / kAtOnce);
      bias.fetch(found_here(layer.bias) + 8 * kAtOnce * part);
      SM_UNROLL
      for (int m = 0; m < M; ++m) {
        typename P::Sum acc[1][kAtOnce];
        const Chunk(&one)[1][NT] = reinterpret_cast<const Chunk(&)[1][NT]>(t[m]);
        P::begin(acc, bias);
        if constexpr (kHeld)
          P::multiply(acc, one, matrix);
        else
          multiply_fetched<P>(acc, one, weight);
        Chunk v[kAtOnce];
        SM_UNROLL
        for (int c = 0; c < kAtOnce; ++c) v[c] = P::exact(acc[0][c]);
        auto place_of = [&](int row) { return this->template place_of_pixel<M>(first, row, m); };
        Element* to = buffer + 8 * kAtOnce * part;
        P::template write<kAtOnce>(v, [&](int row) { return to + place_of(row) * stride; });
      }
    }
  }

  // The first aggregation of k: tiles are aligned to it. By the last warps, for the first ones have C k.
  SM_DEVICE void aggregate() {
    // Pixels four apart lie in banks four apart: eight lanes have four units of two neighbours. Of units that
    // are left they have more pixels, of which every other two begin at another column of their taps.
    constexpr int kFours = kUnits / 4 * 4, kRest = kUnits % 4;
    static_assert(kRest < 3);
    const Place place = this->place();
    const int log = log_width(at) - 2, cells = (at.tile_h / 4) << log, fours = kFours * cells;
    for (int task = threads() - 1 - (int)threadIdx.x; task < kUnits * cells; task += threads()) {
      int unit = task & 3, i = task >> 2, turn = 0;
      if (kFours > 4) unit += i / cells * 4, i %= cells;
      if (kRest && task >= fours) {
        unit = kFours + task % kRest, i = (task - fours) / kRest;
        turn = kRest == 1 ? i / 2 & 3 : i & 2;
      }
      const int r = i >> log, c = i - (r << log);
      const int y = place.y / 4 + r, px = place.x / 4 + c;
      if (y >= p.low_h || px >= p.low_w) continue;
      const Element* from = k() + ((4 * r + 1) * pitch() + 4 * c + 1) * stride + unit * kUnit<P>;
      Vec sum = P::fetch_vec(p.aggregate.bias, unit);
      SM_NO_UNROLL
      for (int dy = 0; dy < 4; ++dy) SM_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int dx = (i + turn) & 3;
        const Vec v = P::load_vec(from + (dy * pitch() + dx) * stride);
        const Vec w = P::fetch_vec(p.aggregate.weight, (4 * dy + dx) * kUnits + unit);
        SM_UNROLL
        for (int j = 0; j < 4; ++j) sum.w[j] = P::fma(w.w[j], v.w[j], sum.w[j]);
      }
      auto* out = reinterpret_cast<float4*>(
          p.low + (((size_t)blockIdx.z * p.low_h + y) * p.low_w + px) * kChannels + unit * kUnit<P>);
      float2 both[4];
      SM_UNROLL
      for (int j = 0; j < 4; ++j) both[j] = P::unpack(P::gelu_word(sum.w[j]));
      if constexpr (P::kChannelsPerWord == 2) {
        out[0] = {both[0].x, both[0].y, both[1].x, both[1].y};
        out[1] = {both[2].x, both[2].y, both[3].x, both[3].y};
      } else {
        out[0] = {both[0].x, both[1].x, both[2].x, both[3].x};
      }
    }
  }

  // GELU(stripes x), zero right of the image, for the logits' sums.
  template <bool kBeyond>
  SM_DEVICE void stripes() {
    share_columns<kUnits, kRows>(
        at, kept()->rows, [this](int unit, int row, int column) { filter<kBeyond, 2>(unit, row, column); },
        [this](int unit, int row, int column) { filter<kBeyond, 1>(unit, row, column); });
  }
  // The same of kRows rows of N columns of one unit of channels.
  template <bool kBeyond, int N>
  SM_DEVICE void filter(int unit, int row, int column) {
    const Place place = this->place();
    const int start = (row * pitch() + column) * stride + unit * kUnit<P>;
    Vec h[3], v[3];
    SM_UNROLL
    for (int i = 0; i < 3; ++i) {
      h[i] = P::fetch_vec(p.stripe_h.weight, i * kUnits + unit);
      v[i] = P::fetch_vec(p.stripe_v.weight, i * kUnits + unit);
    }
    const Vec bias_h = P::fetch_vec(p.stripe_h.bias, unit), bias_v = P::fetch_vec(p.stripe_v.bias, unit);
    Element* const to = striped() + start;
    Vec sum[N][3];  // of the rows that are not complete
    SM_UNROLL
    for (int r = 0; r < kRows + 2; ++r) {
      Vec line[N];
      SM_UNROLL
      for (int dx = 0; dx < N + 2; ++dx) {
        const Vec from = P::load_vec(x() + start + (r * pitch() + dx) * stride);
        SM_UNROLL
        for (int c = max(dx - 2, 0); c <= min(dx, N - 1); ++c) SM_UNROLL
        for (int i = 0; i < 4; ++i)
          line[c].w[i] = P::fma(h[dx - c].w[i], from.w[i], dx == c ? bias_h.w[i] : line[c].w[i]);
      }
      SM_UNROLL
      for (int c = 0; c < N; ++c) {
        if constexpr (kBeyond) {
          const unsigned mask = (unsigned)(place.y + row + r - 1) < (unsigned)at.h ? 0xffffffffu : 0;
          SM_UNROLL
          for (int i = 0; i < 4; ++i) line[c].w[i] = P::keep(line[c].w[i], mask);
        }
        SM_UNROLL
        for (int dy = 0; dy < 3; ++dy) {
          Vec& all = sum[c][(r + 3 - dy) % 3];  // of row r - dy
          SM_UNROLL
          for (int i = 0; i < 4; ++i)
            all.w[i] = P::fma(v[dy].w[i], line[c].w[i], dy ? all.w[i] : bias_v.w[i]);
        }
        if (r < 2) continue;
        Vec& done = sum[c][(r - 2) % 3];
        const bool there = place.x + column + c < at.w;
        SM_UNROLL
        for (int i = 0; i < 4; ++i) {
          done.w[i] = P::gelu_word(done.w[i]);
          if (kBeyond) done.w[i] = P::keep(done.w[i], there ? 0xffffffffu : 0);
        }
        P::store_vec(to + ((r - 2) * pitch() + c) * stride, done);
      }
    }
  }

  // A warp's share of the tile's fragments: among all warps, or among the half of them that it belongs to.
  SM_DEVICE Below of_all() const { return Below(at, warp(), warps()); }
  SM_DEVICE bool is_lower() const { return warp() < warps() / 2; }
  SM_DEVICE Below of_half() const { return Below(at, warp() - (is_lower() ? 0 : warps() / 2), warps() / 2); }

  SM_DEVICE void store_ranks(void* stream, Element* memory, const Dense& layer, int first,
                             const Below& which) {
    for (int part = first; part < layer.tiles / 2; ++part) {
      Ranks to(at, place(), which, stream, layer, part);
      for_fragments<P, NT>(memory, pitch(), which, kept()->rows, [&](Element* here) {
        Chunk a[1][NT];
        P::template read<NT, stride>(a[0], here);
        to.store(a);
      });
    }
  }

  // Of the warps' shares of logits: [warps(), 4 tiles of the router], where x was.
  SM_DEVICE float* logits(int warp) const {
    return reinterpret_cast<float*>(normal()) + 4 * p.logits.tiles * warp;
  }
  // Of the warps that have logits; found where they are needed.
  SM_DEVICE float* own_logits() const {
    return logits(thread_found_here() / 32 - (kSplit ? warps() / 2 : 0));
  }

  // Where P x goes: in place of the stripes, or if others may read them still, over x, behind the logits.
  SM_DEVICE Element* product() const { return kSplit ? x() + 2 * pitch() * stride : striped(); }

  // P x; B x of the first 16 ranks; logits of the first four experts.
  template <bool kProduct, bool kRanks, bool kLogits>
  SM_DEVICE void project(const Below& which) {
    Matrix<P, NT, NT> proj;
    typename P::template SumBias<NT> bias;
    Logits first(p.logits, 0, kLogits);
    if constexpr (kProduct && kIsSlim<P, NT>) proj.fetch(p.proj.weight);
    if constexpr (kProduct) bias.fetch(p.proj.bias);
    Ranks ranks(at, place(), which, p.b, p.expert_b, 0, kRanks);
    const auto beside = product() - striped();
    for_fragments<P, NT>(striped(), pitch(), which, kept()->rows, [&](Element* here) {
      Chunk a[1][NT], v[NT];
      typename P::Sum acc[1][NT];
      P::template read<NT, stride>(a[0], here);
      if constexpr (kLogits) first.add(a);
      if constexpr (kRanks) ranks.store(a);
      if constexpr (kProduct) {
        P::begin(acc, bias);
        if constexpr (kIsSlim<P, NT>)
          P::multiply(acc, a, proj);
        else
          multiply_fetched<P>(acc, a, p.proj.weight);
        SM_UNROLL
        for (int t = 0; t < NT; ++t) v[t] = P::exact(acc[0][t]);
        P::template write<NT, stride>(here + beside, v);
      }
    });
    if constexpr (kLogits) first.store(own_logits());
  }
  // B x of other ranks, logits of other experts.
  SM_DEVICE void project_more(int first_part, const Below& which) {
    store_ranks(p.b, striped(), p.expert_b, first_part, which);
    for (int tile = 1; tile < p.logits.tiles; ++tile) {
      Logits more(p.logits, tile);
      for_fragments<P, NT>(striped(), pitch(), which, kept()->rows, [&](Element* here) {
        Chunk a[1][NT];
        P::template read<NT, stride>(a[0], here);
        more.add(a);
      });
      more.store(own_logits() + 4 * tile);
    }
  }
  SM_DEVICE void project() {
    if constexpr (kSplit) {
      if (is_lower()) {
        project<true, false, false>(of_half());
      } else {
        project_more(1, of_half());
        project<false, true, true>(of_half());
      }
    } else {
      project_more(kFused ? 1 : 0, of_all());
      project<true, kFused, true>(of_all());
    }
  }

  // The tile's part of the logits.
  SM_DEVICE void route() {
    const int expert = thread_found_here();
    if (expert >= p.experts) return;
    float sum = 0;
    for (int warp = 0; warp < warps() / (kSplit ? 2 : 1); ++warp) sum += logits(warp)[expert];
    const uint2 block = block_found_here();
    p.partial[tile_number(block) * p.experts + expert] = sum;
  }

  SM_DEVICE void run() {
    normalise();
    __syncthreads();
    if (reaches_out()) {
      clear_beyond<P, NT>(normal(), at, Region(at, place(), 2, longer<4>(at)));
      __syncthreads();
    }
    convolve();
    __syncthreads();
    if (reaches_out()) clear_beyond<P, NT>(x(), at, Region(at, place(), 1, longer<4>(at)));
    aggregate();
    if (is_lower()) store_ranks(p.c, k() + (pitch() + 1) * stride, p.expert_c, 0, of_half());
    __syncthreads();
    if (reaches_out())
      stripes<true>();
    else
      stripes<false>();
    __syncthreads();
    project();
    __syncthreads();
    copy_out<P, NT, true>(static_cast<Element*>(p.yp) + image_start(at, blockIdx.z, kChannels), in(),
                          product(), pitch(), at, place());
    route();
  }
};

template <class P, int NT>
constexpr int kRmeTogether = rme_together(NT, sizeof(typename P::Element), kHalfSums<P>);

template <class P, int NT>
SM_DEVICE void rme_kernel(const RmeParams& p) {
  SM_DYNAMIC_SHARED(memory);
  Rme<P, NT, kRmeTogether<P, NT>>(p, memory).run();
}

}  // namespace cuda
}  // namespace seemore
