// The router: which experts an image takes.
#pragma once

#include "cpu/engine/worker.h"
#include "cpu/rows/router.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

constexpr int kSummedAtOnce = 4;  // channels, of which each waits for its own sum; padded_dim is a multiple

// Of the area's inner part, for channels from `ch` on, in an order that does not depend on threads and
// strips.
inline void sum_pixels(const Worker& w, int ch, double (&sum)[kSummedAtOnce]) {
  for (double& of : sum) of = 0;
  for (int i = 0; i < sum_blocks(w.plan.padded_w); ++i)
    for (int r = w.area.y0; r < w.area.y1; ++r) {
      const float* const part = w.sums + ((size_t)i * w.area.h + r) * w.m.padded_dim + ch;
      for (int j = 0; j < kSummedAtOnce; ++j) sum[j] += part[j];
    }
}

// Calls f(channel, its sum).
template <class F>
inline void each_sum(const Worker& w, F f) {
  for (int ch = 0; ch < w.m.dim; ch += kSummedAtOnce) {
    double sum[kSummedAtOnce];
    sum_pixels(w, ch, sum);
    for (int j = 0; j < kSummedAtOnce && ch + j < w.m.dim; ++j) f(ch + j, sum[j]);
  }
}

// Every thread computes it for itself, in the same order: no barrier, same bits.
inline Routing route(const Worker& w, const Group& group) {
  double probabilities[kMaxExperts] = {};
  each_sum(w, [&](int ch, double sum) {
    const double mean = sum / ((double)w.area.h * w.area.w);
    add_logits(group.router, ch, mean, w.m.num_experts, w.m.dim, probabilities);
  });
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
