// One low-rank expert, A ((B x + b) * (C k + c)) + a, at each pixel: three small products chained in the L1
// cache, always in fp32.
#pragma once

#include "cpu/isa/tasks.h"
#include "cpu/ops/matrices.h"
#include "cpu/ops/op.h"
#include "cpu/rows/gemm.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// w: B, b, C, c, A, a.
struct ExpertMatrices {
  static constexpr int kWeights = 6;
  int channels, rank;
  Matrix b, c, a;

  static constexpr Sizes<kWeights> sizes(int64_t channels, int64_t rank) {
    return sizes_of(rank * channels, rank, rank * channels, rank, rank * channels, channels);
  }

  ExpertMatrices() = default;
  ExpertMatrices(Arena& arena, int channels_, int rank_, Weights w) : channels(channels_), rank(rank_) {
    b = pack_matrix(arena, rank, channels, w[0], w[1]);
    c = pack_matrix(arena, rank, channels, w[2], w[3]);
    a = pack_matrix(arena, channels, rank, w[4], w[5]);
  }

  // Floats that the constructor takes.
  static size_t packed(int channels, int rank) {
    const size_t c = round_up(channels, 4), r = round_up(rank, 4);
    return 2 * (r * channels + r) + c * rank + c + 6 * 16;  // each begins a line
  }

  // Columns [x0, x1), whole vectors: out = expert(x, k), plus x for kResidual; B x, C k and their product are
  // left in the rows given for them, of which the last two may be one.  Writes a.m channels of out.
  template <Epilogue E, int kAhead = 0>
  SM_INLINE void columns(const Row& x, const Row& k, int x0, int x1, const Row& of_b, const Row& of_c,
                         const Row& product, const Row& out) const {
    matmul<Fp32, Epilogue::kStore, kAhead>(b, one_tap(x), x0, x1, of_b);
    matmul<Fp32, Epilogue::kStore, kAhead>(c, one_tap(k), x0, x1, of_c);
    for (int r = 0; r < rank; ++r)
      for (int at = x0; at < x1; at += VL)
        store(product.at(r, at), load(of_b.at(r, at)) * load(of_c.at(r, at)));
    matmul<Fp32, E>(a, one_tap(product), x0, x1, out, x);
  }
};

// The same for planes of any size, out = expert(x, k) or x + expert(x, k), a chunk of columns at a time.
struct ExpertOnPlanes {
  static constexpr int kPixels =
      VL == 16 ? 32 : 16;  // they stay in the L1 cache with all that is made of them
  // A plane per channel makes more streams of memory than the hardware follows by itself.
  static constexpr int kAhead = 64;

  static int64_t scratch(int64_t channels, int64_t rank) {
    return kPixels * (2 * (round_up((int)rank, 4) + 2 * round_up((int)channels, 4)));
  }

  // `pixels` of planes that lie `plane` floats apart.  `scratch`: as many floats as above says.
  template <Epilogue E>
  static void run(const ExpertMatrices& m, const float* x, const float* k, float* out, int64_t plane,
                  int pixels, float* scratch) {
    const int padded = round_up(m.channels, 4), ranks = round_up(m.rank, 4);
    const Row of_b = {scratch, kPixels}, of_c = {of_b.at(ranks, 0), kPixels};
    const Row own_x = {of_c.at(ranks, 0), kPixels}, own_k = {own_x.at(padded, 0), kPixels};
    const Row own_out = {own_k.at(padded, 0), kPixels};
    for (int from = 0; from < pixels; from += kPixels) {
      const int count = pixels - from < kPixels ? pixels - from : kPixels;
      const Row rows[2] = {{const_cast<float*>(x) + from, plane}, {const_cast<float*>(k) + from, plane}};
      const Row result = {out + from, plane};
      if (count % VL == 0 && padded == m.channels) {
        m.columns<E, kAhead>(rows[0], rows[1], 0, count, of_b, of_c, of_c, result);
        continue;
      }
      // Whole vectors and blocks of four channels would pass the planes' ends.
      copy(rows[0], own_x, m.channels, count);
      copy(rows[1], own_k, m.channels, count);
      for (int c = m.channels; c < padded; ++c) memset(own_x.at(c, 0), 0, sizeof(float) * kPixels);
      m.columns<E>(own_x, own_k, 0, round_up(count, VL), of_b, of_c, of_c, own_out);
      copy(own_out, result, m.channels, count);
    }
  }

 private:
  static void copy(const Row& from, const Row& to, int channels, int count) {
    for (int c = 0; c < channels; ++c) memcpy(to.at(c, 0), from.at(c, 0), sizeof(float) * count);
  }
};

// Over the fields of an image, with gradients.
struct Expert {
  static constexpr int kWeights = ExpertMatrices::kWeights;
  const Geometry& g;
  ExpertMatrices m;
  Matrix back_b, back_c, back_a;
  Field b_value, c_value, product, grad_b;
  Row room;

  // `capacity`: of the fields; rank and weights come with set().
  Expert(Arena& arena, const Geometry& g_, int channels, int capacity) : g(g_) {
    m.channels = channels;
    b_value = arena.field(g, capacity);
    c_value = arena.field(g, capacity);
    product = arena.field(g, capacity);
    grad_b = arena.field(g, capacity);
    room = arena.row(g, capacity);
  }

  // Packed anew at the arena's place, room for which it must have.
  void set(Arena arena, int rank, Weights w) {
    m = ExpertMatrices(arena, m.channels, rank, w);
    back_b = pack_transposed(arena, rank, m.channels, w[0]);
    back_c = pack_transposed(arena, rank, m.channels, w[2]);
    back_a = pack_transposed(arena, m.channels, rank, w[4]);
  }

  static size_t packed(int channels, int rank) { return 3 * ExpertMatrices::packed(channels, rank); }

  // Row r.
  template <Epilogue E>
  void forward(const Field& x, const Field& k, int r, const Row& out) {
    each_chunk(0, g.padded_w, [&](int from, int to) SM_LAMBDA_INLINE {
      m.columns<E>(x.row(r), k.row(r), from, to, b_value.row(r), c_value.row(r), product.row(r), out);
    });
  }

  // After forward: dx (plus dy, for kResidual) and dk from dy, and the gradients of set()'s weights.
  template <Epilogue E>
  void backward(const Field& x, const Field& k, const Field& dy, const Field& dx, const Field& dk,
                Gradients d) {
    matrix_gradient(g, dy, m.channels, product, m.rank, d[4]);
    bias_gradient(g, dy, m.channels, d[5]);
    for (int r = 0; r < g.h; ++r) {
      convolve(g, back_a, dy.row(r), room);
      multiply_row(g, room, c_value.row(r), grad_b.row(r), m.rank);
      multiply_row(g, room, b_value.row(r), product.row(r), m.rank);  // of c
      convolve(g, back_c, product.row(r), dk.row(r));
      convolve<Fp32, E>(g, back_b, grad_b.row(r), dx.row(r), dy.row(r));
    }
    matrix_gradient(g, grad_b, m.rank, x, m.channels, d[0]);
    bias_gradient(g, grad_b, m.rank, d[1]);
    matrix_gradient(g, product, m.rank, k, m.channels, d[2]);
    bias_gradient(g, product, m.rank, d[3]);
  }
};

struct LowRankExperts {
  static constexpr int kImages = 2;
  static int64_t reach(const sm_op_params&) { return 0; }
  static auto sizes(const sm_op_params& p) { return ExpertMatrices::sizes(p.c, p.rank); }
  static auto saved(const sm_op_params&) { return sizes_of(); }

  static bool forward_all(const sm_op_params& p) {
    const int64_t plane = p.h * p.w, blocks = ceil_div(plane, kTaskPixels), tasks = p.n * blocks;
    const int64_t each = ExpertOnPlanes::scratch(p.c, p.rank);
    const Packed<ExpertMatrices> expert((int)p.c, (int)p.rank, p.inputs + kImages);
    Scratch<float> scratch(useful_threads(p.threads, tasks) * each);
    if (!expert.memory.data || !scratch.data) return false;
    run_tasks(p.threads, tasks, [&](int64_t task, int thread) {
      const int64_t first = task % blocks * kTaskPixels;
      const int64_t at = task / blocks * p.c * plane + first;
      ExpertOnPlanes::run<Epilogue::kStore>(expert.weights, p.inputs[0] + at, p.inputs[1] + at,
                                            p.outputs[0] + at, plane, (int)least(kTaskPixels, plane - first),
                                            scratch.data + thread * each);
    });
    return true;
  }

  const Geometry& g;
  int c;
  Expert expert;
  Field x, k, dy, dx, dk;

  LowRankExperts(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_), c((int)p.c), expert(arena, g_, c, (int)p.rank) {
    arena.fields(g, c, x, k, dy, dx, dk);
    const Arena packed = {arena.floats(Expert::packed(c, (int)p.rank))};
    if (packed.base) expert.set(packed, (int)p.rank, w);
  }
  void backward(const float* grad, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, in[1], c, k);
    read_image(g, grad, c, dy);
    for (int r = 0; r < g.h; ++r) expert.forward<Epilogue::kStore>(x, k, r, dx.row(r));
    expert.backward<Epilogue::kStore>(x, k, dy, dx, dk, d + kImages);
    if (d[0]) write_image(g, dx, c, d[0]);
    if (d[1]) write_image(g, dk, c, d[1]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
