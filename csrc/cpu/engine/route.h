// The router: which experts an image takes.
#pragma once

#include "cpu/engine/worker.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

// Of the area's inner part, in an order that does not depend on the threads.
inline double sum_of(const Worker& w, int ch) {
  double sum = 0;
  for (int i = 0; i < strips(w.plan); ++i)
    for (int r = w.area.y0; r < w.area.y1; ++r)
      sum += w.sums[((size_t)i * w.area.h + r) * w.m.padded_dim + ch];
  return sum;
}

// Every thread computes it for itself, in the same order: no barrier, same bits.
inline Routing route(const Worker& w, const Group& group) {
  double logits[kMaxExperts] = {};
  for (int ch = 0; ch < w.m.dim; ++ch) {
    const double mean = sum_of(w, ch) / ((double)w.area.h * w.area.w);
    for (int e = 0; e < w.m.num_experts; ++e) logits[e] += mean * group.router[e * w.m.dim + ch];
  }
  double largest = logits[0], total = 0, exponential[kMaxExperts];
  for (int e = 1; e < w.m.num_experts; ++e) largest = logits[e] > largest ? logits[e] : largest;
  for (int e = 0; e < w.m.num_experts; ++e) total += exponential[e] = __builtin_exp(logits[e] - largest);
  Routing routing = {};
  bool taken[kMaxExperts] = {};
  for (; routing.count < w.m.topk; ++routing.count) {
    int best = -1;
    for (int e = 0; e < w.m.num_experts; ++e)
      if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
    taken[best] = true;
    routing.expert[routing.count] = best;
    routing.weight[routing.count] = (float)(exponential[best] / total);
  }
  return routing;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
