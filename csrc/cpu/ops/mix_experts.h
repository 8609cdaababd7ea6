// Mixture of low-rank experts: pool and route, fold each image's chosen experts into one, apply that.
//
// sum_e w_e (A_e z_e + a_e) is one expert of the chosen ranks' sum with A's columns scaled by w_e, so the
// work per pixel is low_rank_experts' own, whatever was chosen.
#pragma once

#include "cpu/isa/dispatch.h"
#include "cpu/isa/lanes.h"
#include "cpu/isa/tasks.h"
#include "cpu/ops/low_rank_experts.h"
#include "cpu/ops/routing.h"

namespace seemore {
namespace SM_ISA {

constexpr int64_t kPoolPixels = 16384;  // pixels per partial sum

static bool mix_experts(const sm_mix_experts_params& p) {
  const int64_t plane = p.h * p.w, parts = ceil_div(plane, kPoolPixels);
  const int64_t blocks = ceil_div(plane, kTaskPixels), tasks = p.n * blocks;
  int64_t all_ranks = 0;
  for (int64_t e = 0; e < p.experts; ++e) all_ranks += p.ranks[e];

  const int64_t scratch_size = expert_scratch(all_ranks);
  Scratch<double> sums(p.n * p.c * parts), logits(p.experts);
  Scratch<float> memory(p.n * folded_size(p.c, all_ranks));
  Scratch<FoldedExpert> folded(p.n);
  Scratch<float> scratch(useful_threads(p.threads, tasks) * scratch_size);
  if (!sums.data || !logits.data || !memory.data || !folded.data || !scratch.data) return false;

  run_tasks(p.threads, p.n * p.c * parts, [&](int64_t task, int) {
    const int64_t first = task % parts * kPoolPixels;
    sums.data[task] = sum_pixels(p.x + task / parts * plane + first, least(kPoolPixels, plane - first));
  });

  for (int64_t n = 0; n < p.n; ++n) {
    for (int64_t e = 0; e < p.experts; ++e) logits.data[e] = 0;
    for (int64_t channel = 0; channel < p.c; ++channel) {
      double mean = 0;
      for (int64_t part = 0; part < parts; ++part) mean += sums.data[(n * p.c + channel) * parts + part];
      mean /= (double)plane;
      p.mean[n * p.c + channel] = (float)mean;
      for (int64_t e = 0; e < p.experts; ++e) logits.data[e] += mean * p.router_weight[e * p.c + channel];
    }
    float* const weights = p.weights + n * p.experts;
    select_experts(logits.data, p.experts, p.topk, weights);
    folded.data[n] = fold_experts(p, all_ranks, weights, memory.data + n * folded_size(p.c, all_ranks));
  }

  run_tasks(p.threads, tasks, [&](int64_t task, int thread) {
    const FoldedExpert& expert = folded.data[task / blocks];
    const int64_t first = task % blocks * kTaskPixels;
    const int64_t at = task / blocks * p.c * plane + first;
    apply_expert(expert.b, expert.c, expert.a, p.x + at, p.k + at, p.out + at, plane,
                 least(kTaskPixels, plane - first), true, scratch.data + thread * scratch_size);
  });
  return true;
}

}  // namespace SM_ISA
}  // namespace seemore
