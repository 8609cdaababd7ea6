// The mixture of low-rank experts over one image, and its router.
#pragma once

#include "cpu/ops/parts.h"
#include "cpu/ops/routing.h"

namespace seemore {
namespace SM_ISA {

// One expert, A (b * c) + a with b = B x + b', c = C k + c'.
struct Expert {
  const Geometry& g;
  int channels, rank;
  Matrix b, c, a, back_b, back_c, back_a;
  Field b_value, c_value, product, grad, grad_b;

  // `capacity`: of the fields; ranks and weights come with set().
  Expert(Arena& arena, const Geometry& g_, int channels_, int capacity)
      : g(g_), channels(channels_), rank(0) {
    arena.fields(g, capacity, false, b_value, c_value, product, grad, grad_b);
  }

  // w: B, b', C, c', A, a; packed anew at the arena's place, room for which it must have.
  void set(Arena arena, int rank_, Weights w) {
    rank = rank_;
    b = pack_matrix(arena, rank, channels, w[0], w[1]);
    c = pack_matrix(arena, rank, channels, w[2], w[3]);
    a = pack_matrix(arena, channels, rank, w[4], w[5]);
    back_b = pack_transposed(arena, rank, channels, w[0]);
    back_c = pack_transposed(arena, rank, channels, w[2]);
    back_a = pack_transposed(arena, channels, rank, w[4]);
  }

  static size_t packed(int channels, int rank) {
    return (size_t)6 * ((round_up(channels, 4) + 16) * (round_up(rank, 4) + 16) + 16);
  }

  template <Epilogue E>
  void forward(const Field& x, const Field& k, const Field& out) {
    convolve(g, b, x, b_value);
    convolve(g, c, k, c_value);
    multiply(g, b_value, c_value, product, rank);
    convolve<E>(g, a, product, out, x);
  }

  // After forward: dx (plus dy, where `residual`) and dk from dy, and the gradients of set()'s weights.
  template <Epilogue E>
  void backward(const Field& x, const Field& k, const Field& dy, const Field& dx, const Field& dk,
                Gradients d) {
    matrix_gradient(g, dy, channels, product, rank, d[4]);
    bias_gradient(g, dy, channels, d[5]);
    convolve(g, back_a, dy, grad);
    multiply(g, grad, c_value, grad_b, rank);
    multiply(g, grad, b_value, product, rank);  // of c
    matrix_gradient(g, grad_b, rank, x, channels, d[0]);
    bias_gradient(g, grad_b, rank, d[1]);
    matrix_gradient(g, product, rank, k, channels, d[2]);
    bias_gradient(g, product, rank, d[3]);
    convolve(g, back_c, product, dk);
    convolve<E>(g, back_b, grad_b, dx, dy);
  }
};

// w: router, B, b', C, c', A, a, of all experts side by side.  Those chosen are folded into one.
struct Mixture {
  const Geometry& g;
  sm_mix_experts_params p = {};  // weights and options only
  int64_t all_ranks = 0;
  Expert expert;
  float *folded, *gradients;  // of the chosen: weights, and their gradients
  double *probabilities, *slopes;
  Arena packed;

  Mixture(Arena& arena, const Geometry& g_, int channels, const sm_op_params& op, Weights w)
      : g(g_), expert(arena, g_, channels, (int)sum_ranks(op)) {
    p.router_weight = w[0];
    p.b_weight = w[1];
    p.b_bias = w[2];
    p.c_weight = w[3];
    p.c_bias = w[4];
    p.a_weight = w[5];
    p.a_bias = w[6];
    p.ranks = op.ranks;
    p.c = channels;
    p.experts = op.experts;
    p.topk = op.topk;
    all_ranks = sum_ranks(op);
    folded = arena.floats(folded_size(channels, all_ranks));
    gradients = arena.floats(folded_size(channels, all_ranks));
    probabilities = reinterpret_cast<double*>(arena.floats(2 * p.experts));
    slopes = reinterpret_cast<double*>(arena.floats(2 * p.experts));
    packed = {arena.floats(Expert::packed(channels, (int)all_ranks))};
  }

  static int64_t sum_ranks(const sm_op_params& op) {
    int64_t sum = 0;
    for (int64_t e = 0; e < op.experts; ++e) sum += op.ranks[e];
    return sum;
  }

  // weights [experts] and mean [channels] of x.
  void route(const Field& x, float* weights, float* mean) {
    for (int c = 0; c < p.c; ++c) {
      double sum = 0;
      for (int r = 0; r < g.h; ++r) sum += sum_pixels(x.at(c, r, 0), g.w);
      mean[c] = (float)(sum / ((double)g.h * g.w));
    }
    find_logits(mean);
    select_experts(probabilities, p.experts, p.topk, weights);
  }

  // result = x + the chosen experts
  void forward(const Field& x, const Field& k, const float* weights, const Field& result) {
    fold(weights);
    expert.forward<Epilogue::kResidual>(x, k, result);
  }

  // After forward: dx and dk from dy.
  void backward(const Field& x, const Field& k, const float* weights, const float* mean, const Field& dy,
                const Field& dx, const Field& dk, Gradients d) {
    const int64_t channels = p.c, rank = expert.rank;
    float* const db = gradients;
    float* const dc = db + rank * channels;
    float* const da = dc + rank * channels;
    float* const db_bias = da + rank * channels;
    float* const dc_bias = db_bias + rank;
    float* const da_bias = dc_bias + rank;
    float* const of_expert[] = {db, db_bias, dc, dc_bias, da, da_bias};
    expert.backward<Epilogue::kResidual>(x, k, dy, dx, dk, of_expert);

    for (int i = 1; i < 6; ++i) memset(d[i], 0, sizeof(float) * all_ranks * (i % 2 ? channels : 1));
    memset(d[6], 0, sizeof(float) * p.experts * channels);
    int64_t from = 0, to = 0;  // first rank of expert e among the chosen, and among all
    for (int64_t e = 0; e < p.experts; to += p.ranks[e++]) {
      const int64_t ranks = p.ranks[e];
      const float weight = weights[e];
      slopes[e] = 0;
      if (weight == 0) continue;
      memcpy(d[1] + to * channels, db + from * channels, sizeof(float) * ranks * channels);
      memcpy(d[2] + to, db_bias + from, sizeof(float) * ranks);
      memcpy(d[3] + to * channels, dc + from * channels, sizeof(float) * ranks * channels);
      memcpy(d[4] + to, dc_bias + from, sizeof(float) * ranks);
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t r = 0; r < ranks; ++r) {
          const float slope = da[c * rank + from + r];
          slopes[e] += (double)slope * p.a_weight[c * all_ranks + to + r];
          d[5][c * all_ranks + to + r] = weight * slope;
        }
        slopes[e] += (double)da_bias[c] * p.a_bias[e * channels + c];
        d[6][e * channels + c] = weight * da_bias[c];
      }
      from += ranks;
    }
    route_backward(weights, mean, dx, d[0]);
  }

 private:
  void find_logits(const float* mean) {
    for (int64_t e = 0; e < p.experts; ++e) {
      probabilities[e] = 0;
      for (int64_t c = 0; c < p.c; ++c) probabilities[e] += (double)mean[c] * p.router_weight[e * p.c + c];
    }
  }

  void fold(const float* weights) {
    const FoldedExpert one = fold_experts(p, all_ranks, weights, folded);
    const float* const matrices[] = {one.b.weight, one.b.bias,   one.c.weight,
                                     one.c.bias,   one.a.weight, one.a.bias};
    expert.set(packed, (int)one.b.rows, matrices);
  }

  // Through the softmax, of which the chosen entries count, and the mean.
  void route_backward(const float* weights, const float* mean, const Field& dx, float* router) {
    double largest, total = 0, inner = 0;
    find_logits(mean);
    largest = probabilities[0];
    for (int64_t e = 1; e < p.experts; ++e)
      if (probabilities[e] > largest) largest = probabilities[e];
    for (int64_t e = 0; e < p.experts; ++e)
      total += probabilities[e] = __builtin_exp(probabilities[e] - largest);
    for (int64_t e = 0; e < p.experts; ++e) {
      probabilities[e] /= total;
      if (weights[e] != 0) inner += probabilities[e] * slopes[e];
    }
    for (int64_t e = 0; e < p.experts; ++e) slopes[e] = probabilities[e] * (slopes[e] - inner);
    for (int64_t c = 0; c < p.c; ++c) {
      double slope = 0;
      for (int64_t e = 0; e < p.experts; ++e) {
        router[e * p.c + c] = (float)(slopes[e] * mean[c]);
        slope += slopes[e] * p.router_weight[e * p.c + c];
      }
      const vf of_pixel = splat((float)(slope / ((double)g.h * g.w)));
      for (int r = 0; r < g.h; ++r)
        for (int x = 0; x < g.padded_w; x += VL) {
          float* const at = dx.at((int)c, r, x);
          store(at, load(at) + of_pixel);
        }
    }
    mask(g, dx, (int)p.c);
  }
};

}  // namespace SM_ISA
}  // namespace seemore
