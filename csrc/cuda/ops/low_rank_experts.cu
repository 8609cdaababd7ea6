// low_rank_experts, and the experts of mix_experts.
#ifdef SM_HOST

#include <string>

#include "cuda/ops/experts.h"

namespace seemore {
namespace cuda {
namespace {

// How the tiles are cut: lanes of four pixels, where shared memory has room for the products.
struct Cut {
  int lane, pixels;  // pixels of a lane; of a tile
  size_t shared;     // bytes

  Cut(const Call& call, const ExpertsParams& p) {
    use<4>(p);
    bool vectors = p.channels % 4 == 0 && p.plane % 4 == 0 && shared <= (96 << 10);
    for (const void* memory : {p.x, p.k, p.grad, (const void*)p.out, (const void*)p.grad_k,
                               (const void*)p.b_weight, (const void*)p.c_weight})
      vectors = vectors && call.vectors(memory);
    if (!vectors) use<1>(p);
  }
  template <int V>
  void use(const ExpertsParams& p) {
    lane = V, pixels = 32 * V * kPartsOf<V>;
    shared = sizeof(float) * ((p.grad ? 3 : 1) * (size_t)p.rank * pixels + 2 * (p.rank + 1));
  }
};

void start_kernel(Call& call, const ExpertsParams& p, const Cut& cut, int shares) {
  const std::string name =
      std::string("experts") + (p.grad ? "_backward" : "") + (cut.lane > 1 ? "" : "_one_by_one");
  call.start("low_rank_experts", name.c_str(), p, shares, call.params.n, cut.shared);
}

}  // namespace

ExpertsParams experts_of(const Call& call, int first) {
  ExpertsParams p = {};
  p.x = call.in(0), p.k = call.in(1);
  p.b_weight = call.in(first), p.b_bias = call.in(first + 1);
  p.c_weight = call.in(first + 2), p.c_bias = call.in(first + 3);
  p.a_weight = call.in(first + 4), p.a_bias = call.in(first + 5);
  p.channels = call.channels;
  p.plane = call.plane;
  p.rank = (int)call.params.rank;
  p.experts = 1;
  p.first[1] = p.rank;
  if (const int64_t* ranks = call.params.ranks) {
    p.experts = (int)call.params.experts;
    for (int e = 0; e < p.experts; ++e) p.first[e + 1] = p.first[e] + (int)ranks[e];
  }
  return p;
}

void start_experts(Call& call, ExpertsParams p) {
  const Cut cut(call, p);
  start_kernel(call, p, cut, call.tiles(cut.pixels));
}

const float* start_experts_backward(Call& call, ExpertsParams p, bool sums, int* shares) {
  p.grad = call.grad();
  p.out = call.out(0), p.grad_k = call.out(1);
  const Cut cut(call, p);
  *shares = call.few(cut.pixels, call.params.n);
  if (sums) p.partial = call.floats(call.params.n * *shares * ExpertsSums(p.rank, p.channels).width);
  start_kernel(call, p, cut, *shares);
  return p.partial;
}

void sum_experts(Call& call, const ExpertsParams& p, const float* sums, int64_t parts, int first,
                 bool own_bias) {
  const ExpertsSums at(p.rank, p.channels);
  const size_t rank = p.rank, c = p.channels;
  call.sum(sums, 1, parts, at.width)
      .piece(call.out(first), at.b, rank * c)
      .piece(call.out(first + 1), at.b_bias, rank)
      .piece(call.out(first + 2), at.c, rank * c)
      .piece(call.out(first + 3), at.c_bias, rank)
      .piece(call.out(first + 4), at.a, c, rank, 1, c)
      .piece(own_bias ? call.out(first + 5) : nullptr, at.grad, c);
}

void low_rank_experts(Call& call) {
  const ExpertsParams p = experts_of(call, 2);
  if (!call.params.backward) {
    ExpertsParams forward = p;
    forward.out = call.out(0);
    return start_experts(call, forward);
  }
  int shares;
  const float* sums = start_experts_backward(call, p, call.wants(2, 8), &shares);
  sum_experts(call, p, sums, call.params.n * shares, 2, true);
}

}  // namespace cuda
}  // namespace seemore

#else

#include "cuda/ops/experts_backward.cuh"

// Blocks to a multiprocessor: with four, experts_one_by_one would spill (16 bit, sm_90).
SM_ENTRY(experts, ExpertsParams, (kThreads, 2), experts_kernel<SM_TYPE, 4>)
SM_ENTRY(experts_one_by_one, ExpertsParams, (kThreads, 3), experts_kernel<SM_TYPE, 1>)
SM_ENTRY(experts_backward, ExpertsParams, (kThreads, 2), experts_backward_kernel<SM_TYPE, 4>)
SM_ENTRY(experts_backward_one_by_one, ExpertsParams, (kThreads, 2), experts_backward_kernel<SM_TYPE, 1>)

#endif
