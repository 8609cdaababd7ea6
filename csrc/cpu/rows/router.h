// The router's choice: which experts an image takes, and with what weights.
#pragma once

#include "cpu/isa/lanes.h"

namespace seemore {
namespace SM_ISA {

// In double: the mean of a large image decides between experts that are nearly as probable.
inline double sum_pixels(const float* x, int64_t pixels) {
  ExactSum sum[2];
  over_vectors<2>(pixels, [&](int64_t i, auto lanes) {
    for (int u = 0; u < decltype(lanes)::vectors; ++u) sum[u].add(lanes.get(x + i, u));
  });
  return sum[0].total() + sum[1].total();
}

// logits[e] += what channel c's mean gives; router [experts, channels].
inline void add_logits(const float* router, int64_t c, double mean, int64_t experts, int64_t channels,
                       double* logits) {
  for (int64_t e = 0; e < experts; ++e) logits[e] += mean * router[e * channels + c];
}

// The logits' softmax, in place.
inline void softmax(double* logits, int64_t experts) {
  double largest = logits[0], total = 0;
  for (int64_t e = 1; e < experts; ++e)
    if (logits[e] > largest) largest = logits[e];
  for (int64_t e = 0; e < experts; ++e) total += logits[e] = __builtin_exp(logits[e] - largest);
  for (int64_t e = 0; e < experts; ++e) logits[e] /= total;
}

// Expert e's place among the probabilities, from 0: the largest first, of equal ones the lower index, and NaN
// before all numbers, as with torch.topk.
inline int64_t place_of(const double* probabilities, int64_t experts, int64_t e) {
  const double own = probabilities[e];
  int64_t place = 0;
  for (int64_t other = 0; other < experts; ++other) {
    const double its = probabilities[other];
    const bool equal = its == own || (its != its && own != own);
    place += equal ? other < e : its > own || its != its;
  }
  return place;
}

}  // namespace SM_ISA
}  // namespace seemore
