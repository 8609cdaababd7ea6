// Which experts an image takes, and those folded into one.
#pragma once

#include "cpu/isa/dispatch.h"
#include "cpu/isa/lanes.h"

namespace seemore {
namespace SM_ISA {

// A 1x1 convolution: weight [rows, columns], bias [rows].
struct Linear {
  const float* weight;
  const float* bias;
  int64_t rows, columns;
};

typedef double vd __attribute__((vector_size(VL * 8)));

static double sum_pixels(const float* x, int64_t pixels) {
  vd sum[2] = {};
  over_vectors<2>(pixels, [&](int64_t i, auto lanes) {
    for (int u = 0; u < decltype(lanes)::vectors; ++u)
      sum[u] += __builtin_convertvector(lanes.get(x + i, u), vd);
  });
  double total = 0;
  for (int u = 0; u < 2; ++u)
    for (int lane = 0; lane < VL; ++lane) total += sum[u][lane];
  return total;
}

// weights [experts] = softmax of the logits where among the topk largest, else 0; `logits` is overwritten.
static void select_experts(double* logits, int64_t experts, int64_t topk, float* weights) {
  double largest = logits[0], total = 0;
  for (int64_t e = 1; e < experts; ++e)
    if (logits[e] > largest) largest = logits[e];
  for (int64_t e = 0; e < experts; ++e) total += logits[e] = __builtin_exp(logits[e] - largest);
  for (int64_t e = 0; e < experts; ++e) {
    // Its place among the others decides; where NaN makes every place 0, all are chosen and the output is
    // NaN.
    int64_t place = 0;
    for (int64_t other = 0; other < experts; ++other)
      place += logits[other] > logits[e] || (other < e && logits[other] == logits[e]);
    weights[e] = place < topk ? (float)(logits[e] / total) : 0.0f;
  }
}

// The experts of one image folded into one: those of weight above zero, or NaN.
struct FoldedExpert {
  Linear b, c, a;
};

SM_INLINE int64_t folded_size(int64_t channels, int64_t ranks) {
  return (3 * ranks + 1) * channels + 2 * ranks;
}

static FoldedExpert fold_experts(const sm_mix_experts_params& p, int64_t all_ranks, const float* weights,
                                 float* memory) {
  int64_t rank = 0;
  for (int64_t e = 0; e < p.experts; ++e) rank += weights[e] != 0 ? p.ranks[e] : 0;
  float* const b = memory;
  float* const c = b + rank * p.c;
  float* const a = c + rank * p.c;
  float* const b_bias = a + rank * p.c;
  float* const c_bias = b_bias + rank;
  float* const a_bias = c_bias + rank;
  memset(a_bias, 0, sizeof(float) * p.c);

  int64_t from = 0, to = 0;  // first rank of expert e among all, and among the chosen
  for (int64_t e = 0; e < p.experts; from += p.ranks[e++]) {
    const int64_t ranks = p.ranks[e];
    const float weight = weights[e];
    if (weight == 0) continue;
    memcpy(b + to * p.c, p.b_weight + from * p.c, sizeof(float) * ranks * p.c);
    memcpy(c + to * p.c, p.c_weight + from * p.c, sizeof(float) * ranks * p.c);
    memcpy(b_bias + to, p.b_bias + from, sizeof(float) * ranks);
    memcpy(c_bias + to, p.c_bias + from, sizeof(float) * ranks);
    for (int64_t channel = 0; channel < p.c; ++channel) {
      for (int64_t r = 0; r < ranks; ++r)
        a[channel * rank + to + r] = weight * p.a_weight[channel * all_ranks + from + r];
      a_bias[channel] += weight * p.a_bias[e * p.c + channel];
    }
    to += ranks;
  }
  return {{b, b_bias, rank, p.c}, {c, c_bias, rank, p.c}, {a, a_bias, p.c, rank}};
}

}  // namespace SM_ISA
}  // namespace seemore
