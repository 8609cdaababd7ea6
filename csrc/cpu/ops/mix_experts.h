// Mixture of low-rank experts: pool and route, fold each image's chosen experts into one, apply that.
//
// sum_e w_e (A_e z_e + a_e) is one expert of the chosen ranks' sum with A's columns scaled by w_e, so the
// work per pixel is low_rank_experts' own, whatever was chosen.
#pragma once

#include "cpu/isa/tasks.h"
#include "cpu/ops/low_rank_experts.h"
#include "cpu/ops/op.h"
#include "cpu/rows/router.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

// w: router, B, b, C, c, A, a, of all experts side by side.
struct MixtureWeights {
  static constexpr int kWeights = 1 + ExpertMatrices::kWeights;
  const float *router, *b, *b_bias, *c, *c_bias, *a, *a_bias;
  const int64_t* ranks;
  int64_t experts, topk, channels, all_ranks = 0;

  MixtureWeights(const sm_op_params& p, Weights w)
      : router(w[0]),
        b(w[1]),
        b_bias(w[2]),
        c(w[3]),
        c_bias(w[4]),
        a(w[5]),
        a_bias(w[6]),
        ranks(p.ranks),
        experts(p.experts),
        topk(p.topk),
        channels(p.c) {
    for (int64_t e = 0; e < experts; ++e) all_ranks += ranks[e];
  }

  static int64_t sum_ranks(const sm_op_params& p) {
    int64_t sum = 0;
    for (int64_t e = 0; e < p.experts; ++e) sum += p.ranks[e];
    return sum;
  }
  static Sizes<kWeights> sizes(const sm_op_params& p) {
    const int64_t ranks = sum_ranks(p);
    return sizes_of(p.experts * p.c, ranks * p.c, ranks, ranks * p.c, ranks, ranks * p.c, p.experts * p.c);
  }

  // chosen [experts]: the probability where among the topk, else 0; probabilities [experts]: all of them.
  void route(const double* mean, double* probabilities, float* chosen) const {
    for (int64_t e = 0; e < experts; ++e) probabilities[e] = 0;
    for (int64_t i = 0; i < channels; ++i) add_logits(router, i, mean[i], experts, channels, probabilities);
    softmax(probabilities, experts);
    for (int64_t e = 0; e < experts; ++e)
      chosen[e] = place_of(probabilities, experts, e) < topk ? (float)probabilities[e] : 0.0f;
  }

  // Floats that fold() fills.
  int64_t folded_size() const { return (3 * all_ranks + 1) * channels + 2 * all_ranks; }

  // The experts of weight other than 0, NaN too, as one in `memory`; returns its rank, `folded` the matrices.
  int fold(const float* chosen, float* memory, const float* (&folded)[ExpertMatrices::kWeights]) const {
    int64_t rank = 0;
    for (int64_t e = 0; e < experts; ++e) rank += chosen[e] != 0 ? ranks[e] : 0;
    float* const one_b = memory;
    float* const one_c = one_b + rank * channels;
    float* const one_a = one_c + rank * channels;
    float* const one_b_bias = one_a + rank * channels;
    float* const one_c_bias = one_b_bias + rank;
    float* const one_a_bias = one_c_bias + rank;
    memset(one_a_bias, 0, sizeof(float) * channels);

    int64_t from = 0, to = 0;  // first rank of expert e among all, and among the chosen
    for (int64_t e = 0; e < experts; from += ranks[e++]) {
      const float weight = chosen[e];
      if (weight == 0) continue;
      memcpy(one_b + to * channels, b + from * channels, sizeof(float) * ranks[e] * channels);
      memcpy(one_c + to * channels, c + from * channels, sizeof(float) * ranks[e] * channels);
      memcpy(one_b_bias + to, b_bias + from, sizeof(float) * ranks[e]);
      memcpy(one_c_bias + to, c_bias + from, sizeof(float) * ranks[e]);
      for (int64_t i = 0; i < channels; ++i) {
        for (int64_t r = 0; r < ranks[e]; ++r)
          one_a[i * rank + to + r] = weight * a[i * all_ranks + from + r];
        one_a_bias[i] += weight * a_bias[e * channels + i];
      }
      to += ranks[e];
    }
    const float* const all[] = {one_b, one_b_bias, one_c, one_c_bias, one_a, one_a_bias};
    for (int i = 0; i < ExpertMatrices::kWeights; ++i) folded[i] = all[i];
    return (int)rank;
  }
};

// Over the fields of an image.
struct Mixture {
  static constexpr int kWeights = MixtureWeights::kWeights;
  const Geometry& g;
  MixtureWeights w;
  Expert expert;
  float *folded, *gradients,
      *chosen;  // of the chosen experts: weights, and their gradients; the probabilities
  double *mean, *probabilities, *slopes;
  Arena packed;

  Mixture(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights weights)
      : g(g_), w(p, weights), expert(arena, g_, (int)p.c, (int)w.all_ranks) {
    folded = arena.floats(w.folded_size());
    gradients = arena.floats(w.folded_size());
    chosen = arena.floats(w.experts);
    mean = arena.doubles(w.channels);
    probabilities = arena.doubles(w.experts);
    slopes = arena.doubles(w.experts);
    packed = {arena.floats(Expert::packed((int)w.channels, (int)w.all_ranks))};
  }

  // Pools x and chooses.
  void route(const Field& x) {
    pool(x);
    w.route(mean, probabilities, chosen);
    set_expert();
  }

  // The same with an earlier choice, [experts].
  void route_as(const Field& x, const float* earlier) {
    pool(x);
    w.route(mean, probabilities, chosen);
    memcpy(chosen, earlier, sizeof(float) * w.experts);
    set_expert();
  }

  // weights [experts] and pooled [channels]: what was chosen, and from what.
  void write_routing(float* weights, float* pooled) const {
    memcpy(weights, chosen, sizeof(float) * w.experts);
    for (int64_t c = 0; c < w.channels; ++c) pooled[c] = (float)mean[c];
  }

  // After the choice: row r of x + the chosen experts.
  void forward(const Field& x, const Field& k, int r, const Row& out) {
    expert.forward<Epilogue::kResidual>(x, k, r, out);
  }

  // After forward: dx and dk from dy.
  void backward(const Field& x, const Field& k, const Field& dy, const Field& dx, const Field& dk,
                Gradients d) {
    const int64_t channels = w.channels, all_ranks = w.all_ranks, rank = expert.m.rank;
    float* const db = gradients;
    float* const dc = db + rank * channels;
    float* const da = dc + rank * channels;
    float* const db_bias = da + rank * channels;
    float* const dc_bias = db_bias + rank;
    float* const da_bias = dc_bias + rank;
    float* const of_expert[] = {db, db_bias, dc, dc_bias, da, da_bias};
    expert.backward<Epilogue::kResidual>(x, k, dy, dx, dk, of_expert);

    for (int i = 1; i < 6; ++i) memset(d[i], 0, sizeof(float) * all_ranks * (i % 2 ? channels : 1));
    memset(d[6], 0, sizeof(float) * w.experts * channels);
    int64_t from = 0, to = 0;  // first rank of expert e among the chosen, and among all
    for (int64_t e = 0; e < w.experts; to += w.ranks[e++]) {
      const int64_t ranks = w.ranks[e];
      const float weight = chosen[e];
      slopes[e] = 0;
      if (weight == 0) continue;
      memcpy(d[1] + to * channels, db + from * channels, sizeof(float) * ranks * channels);
      memcpy(d[2] + to, db_bias + from, sizeof(float) * ranks);
      memcpy(d[3] + to * channels, dc + from * channels, sizeof(float) * ranks * channels);
      memcpy(d[4] + to, dc_bias + from, sizeof(float) * ranks);
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t r = 0; r < ranks; ++r) {
          const float slope = da[c * rank + from + r];
          slopes[e] += (double)slope * w.a[c * all_ranks + to + r];
          d[5][c * all_ranks + to + r] = weight * slope;
        }
        slopes[e] += (double)da_bias[c] * w.a_bias[e * channels + c];
        d[6][e * channels + c] = weight * da_bias[c];
      }
      from += ranks;
    }
    route_backward(dx, d[0]);
  }

 private:
  void set_expert() {
    const float* matrices[ExpertMatrices::kWeights];
    const int rank = w.fold(chosen, folded, matrices);
    expert.set(packed, rank, matrices);
  }

  void pool(const Field& x) {
    for (int c = 0; c < w.channels; ++c) {
      ExactSum sum;
      for (int r = 0; r < g.h; ++r)  // 0 right of the image
        for (int at = 0; at < g.padded_w; at += VL) sum.add(load(x.at(c, r, at)));
      mean[c] = sum.total() / ((double)g.h * g.w);
    }
  }

  // Through the softmax, of which the chosen entries count, and the mean.
  void route_backward(const Field& dx, float* router) {
    double inner = 0;
    for (int64_t e = 0; e < w.experts; ++e)
      if (chosen[e] != 0) inner += probabilities[e] * slopes[e];
    for (int64_t e = 0; e < w.experts; ++e) slopes[e] = probabilities[e] * (slopes[e] - inner);
    for (int64_t c = 0; c < w.channels; ++c) {
      double slope = 0;
      for (int64_t e = 0; e < w.experts; ++e) {
        router[e * w.channels + c] = (float)(slopes[e] * mean[c]);
        slope += slopes[e] * w.router[e * w.channels + c];
      }
      const vf of_pixel = splat((float)(slope / ((double)g.h * g.w)));
      for (int r = 0; r < g.h; ++r)
        for (int x = 0; x < g.padded_w; x += VL) {
          float* const at = dx.at((int)c, r, x);
          store(at, load(at) + of_pixel);
        }
    }
    mask(g, dx, (int)w.channels);
  }
};

struct MixExperts {
  static constexpr int kImages = 2;
  static constexpr int64_t kPoolPixels = 16384;  // of a partial sum
  static int64_t reach(const sm_op_params&) { return 0; }
  static auto sizes(const sm_op_params& p) { return MixtureWeights::sizes(p); }
  static auto saved(const sm_op_params& p) { return sizes_of(p.experts, p.c); }

  static bool forward_all(const sm_op_params& p) {
    const MixtureWeights w(p, p.inputs + kImages);
    const int64_t plane = p.h * p.w, parts = ceil_div(plane, kPoolPixels);
    const int64_t blocks = ceil_div(plane, kTaskPixels), tasks = p.n * blocks;
    const int64_t each = ExpertOnPlanes::scratch(p.c, w.all_ranks);
    const int64_t packed = ExpertMatrices::packed((int)p.c, (int)w.all_ranks);
    Scratch<double> sums(p.n * p.c * parts), mean(p.c), probabilities(p.experts);
    Scratch<float> folded(w.folded_size()), memory(p.n * packed);
    Scratch<ExpertMatrices> experts(p.n);
    Scratch<float> scratch(useful_threads(p.threads, tasks) * each);
    if (!sums.data || !mean.data || !probabilities.data || !folded.data || !memory.data || !experts.data ||
        !scratch.data)
      return false;

    run_tasks(p.threads, p.n * p.c * parts, [&](int64_t task, int) {
      const int64_t first = task % parts * kPoolPixels;
      sums.data[task] =
          sum_pixels(p.inputs[0] + task / parts * plane + first, least(kPoolPixels, plane - first));
    });

    for (int64_t n = 0; n < p.n; ++n) {
      for (int64_t c = 0; c < p.c; ++c) {
        double sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += sums.data[(n * p.c + c) * parts + part];
        mean.data[c] = sum / (double)plane;
        p.outputs[2][n * p.c + c] = (float)mean.data[c];
      }
      float* const chosen = p.outputs[1] + n * p.experts;
      w.route(mean.data, probabilities.data, chosen);
      const float* matrices[ExpertMatrices::kWeights];
      const int rank = w.fold(chosen, folded.data, matrices);
      Arena arena = {memory.data + n * packed};
      experts.data[n] = ExpertMatrices(arena, (int)p.c, rank, matrices);
    }

    run_tasks(p.threads, tasks, [&](int64_t task, int thread) {
      const int64_t first = task % blocks * kTaskPixels;
      const int64_t at = task / blocks * p.c * plane + first;
      ExpertOnPlanes::run<Epilogue::kResidual>(
          experts.data[task / blocks], p.inputs[0] + at, p.inputs[1] + at, p.outputs[0] + at, plane,
          (int)least(kTaskPixels, plane - first), scratch.data + thread * each);
    });
    return true;
  }

  const Geometry& g;
  int c;
  Mixture mixture;
  Field x, k, dy, dx, dk;

  MixExperts(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_), c((int)p.c), mixture(arena, g_, p, w) {
    arena.fields(g, c, x, k, dy, dx, dk);
  }
  void backward(const float* grad, const float* const* saved, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, in[1], c, k);
    read_image(g, grad, c, dy);
    mixture.route_as(x, saved[0]);
    for (int r = 0; r < g.h; ++r) mixture.forward(x, k, r, dx.row(r));
    mixture.backward(x, k, dy, dx, dk, d + kImages);
    if (d[0]) write_image(g, dx, c, d[0]);
    if (d[1]) write_image(g, dk, c, d[1]);
  }
};

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
