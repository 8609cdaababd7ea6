// The router: which experts an image takes.
#pragma once

#include "cpu/engine/worker.h"
#include "cpu/rows/router.h"

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
  double probabilities[kMaxExperts] = {};
  for (int ch = 0; ch < w.m.dim; ++ch) {
    const double mean = sum_of(w, ch) / ((double)w.area.h * w.area.w);
    add_logits(group.router, ch, mean, w.m.num_experts, w.m.dim, probabilities);
  }
  softmax(probabilities, w.m.num_experts);
  Routing routing = {};
  routing.count = w.m.topk;
  for (int e = 0; e < w.m.num_experts; ++e) {
    const int64_t place = place_of(probabilities, w.m.num_experts, e);
    if (place >= w.m.topk) continue;
    routing.expert[place] = e;
    routing.weight[place] = (float)probabilities[e];
  }
  return routing;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
