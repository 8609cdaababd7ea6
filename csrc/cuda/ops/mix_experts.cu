// mix_experts: its router, with means of x, softmax and top-k in float32, and the gradient through the
// softmax; the experts are those of low_rank_experts.
#include "cuda/ops/experts.h"

namespace seemore {
namespace cuda {
namespace {

// Block: share + shares * plane's number.
struct PoolParams {
  const void* x;   // [N, C, plane]
  float* partial;  // [N, C, shares]
  int plane, shares;
  bool vectors;  // four pixels lie together, from each fourth on
};

// A block for each image.
struct RouteParams {
  const float* partial;  // [N, C, shares]
  const float* router;   // [experts, C]
  float* weights;        // [N, experts]
  float* mean;           // [N, C]
  int channels, plane, shares, experts, topk;
};

// A block for each image.
struct RouteBackwardParams {
  const float* weights;   // [N, experts]
  const float* mean;      // [N, C]
  const float* router;    // [experts, C]
  const float* a_weight;  // [C, R]
  const float* a_bias;    // [experts, C]
  const float* sums;      // [N, ExpertsSums::width]
  float* offset;          // [N, C]: what the router adds to the gradient of x at every pixel
  float* by_image;        // [N, 2, experts, C]: gradients of router and a_bias
  int channels, plane, rank, experts;
  int first[kMostExperts + 1];
};

#ifndef SM_HOST

// Of the thread's pixels of a plane, V at a time.
template <class T, int V>
SM_DEVICE float sum_of_pixels(const PoolParams& p) {
  const int share = blockIdx.x % p.shares, step = p.shares * kThreads;
  const size_t plane = blockIdx.x / p.shares;
  const auto* x = static_cast<const typename T::Element*>(p.x) + plane * p.plane;
  float sum = 0;
  for (int64_t i = share * kThreads + threadIdx.x; i < p.plane / V; i += step) {
    float v[V];
    load_run<T>(v, x + V * i);
    SM_UNROLL
    for (int q = 0; q < V; ++q) sum += v[q];
  }
  return sum;
}

template <class T>
SM_DEVICE void pool_kernel(const PoolParams& p) {
  SM_DYNAMIC_SHARED(shared);
  float* const sums = reinterpret_cast<float*>(shared);  // [kWarps]
  float sum = p.vectors ? sum_of_pixels<T, 4>(p) : sum_of_pixels<T, 1>(p);
  sum = warp_sum(sum);
  if (lane_id() == 0) sums[warp_id()] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += sums[w];
  p.partial[blockIdx.x] = sum;
}

// probabilities[e], in shared memory, from an image's means.
SM_DEVICE void softmax(const float* mean, const float* router, int channels, int experts,
                       float* probabilities) {
  for (int e = warp_id(); e < experts; e += kWarps) {
    float logit = 0;
    for (int c = lane_id(); c < channels; c += 32)
      logit = fmaf(__ldg(router + e * channels + c), mean[c], logit);
    logit = warp_sum(logit);
    if (lane_id() == 0) probabilities[e] = logit;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float most = probabilities[0], sum = 0;
    for (int e = 1; e < experts; ++e) most = fmaxf(most, probabilities[e]);
    for (int e = 0; e < experts; ++e) sum += probabilities[e] = expf(probabilities[e] - most);
    for (int e = 0; e < experts; ++e) probabilities[e] /= sum;
  }
  __syncthreads();
}

SM_DEVICE void route_kernel(const RouteParams& p) {
  SM_DYNAMIC_SHARED(shared);
  float *const mean = reinterpret_cast<float*>(shared), *const probabilities = mean + p.channels;
  const size_t image = blockIdx.x;
  for (int c = warp_id(); c < p.channels; c += kWarps) {
    float sum = 0;
    for (int i = lane_id(); i < p.shares; i += 32)
      sum += __ldg(p.partial + (image * p.channels + c) * p.shares + i);
    sum = warp_sum(sum) / p.plane;
    if (lane_id() == 0) mean[c] = p.mean[image * p.channels + c] = sum;
  }
  __syncthreads();
  softmax(mean, p.router, p.channels, p.experts, probabilities);
  if (threadIdx.x > 0) return;
  float *const weights = p.weights + image * p.experts, *const chosen = probabilities + p.experts;
  for (int e = 0; e < p.experts; ++e) chosen[e] = 0;
  for (int i = 0; i < p.topk; ++i) {
    int best = -1;  // of equal ones the first; NaN stands above all numbers
    for (int e = 0; e < p.experts; ++e)
      if (chosen[e] == 0 && (best < 0 || !(probabilities[e] <= probabilities[best]))) best = e;
    chosen[best] = 1;
  }
  for (int e = 0; e < p.experts; ++e) weights[e] = chosen[e] != 0 ? probabilities[e] : 0.0f;
}

SM_DEVICE void route_backward_kernel(const RouteBackwardParams& p) {
  SM_DYNAMIC_SHARED(shared);
  float *const mean = reinterpret_cast<float*>(shared), *const probabilities = mean + p.channels;
  float* const slope = probabilities + p.experts;  // [experts]: by the weights, then by the logits
  const int channels = p.channels, experts = p.experts;
  const size_t image = blockIdx.x, matrix = (size_t)experts * channels;
  const float* const weights = p.weights + image * experts;
  const ExpertsSums at(p.rank, channels);
  const float *const sums = p.sums + image * at.width, *const grad = sums + at.grad;
  for (int c = threadIdx.x; c < channels; c += kThreads) mean[c] = __ldg(p.mean + image * channels + c);
  __syncthreads();
  softmax(mean, p.router, channels, experts, probabilities);
  for (int e = warp_id(); e < experts; e += kWarps) {
    float sum = 0;
    for (int c = lane_id(); c < channels; c += 32)
      sum = fmaf(__ldg(p.a_bias + e * channels + c), __ldg(grad + c), sum);
    // w times the derivative by w of what goes through the ranks: their products have the factor w.
    float ranks = 0;
    for (int r = p.first[e]; r < p.first[e + 1]; ++r)
      for (int c = lane_id(); c < channels; c += 32)
        ranks =
            fmaf(__ldg(p.a_weight + (size_t)c * p.rank + r), __ldg(sums + at.a + r * channels + c), ranks);
    const float w = __ldg(weights + e);
    sum = warp_sum(sum + ranks / w);
    if (lane_id() == 0) slope[e] = w != 0 ? sum : 0.0f;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float average = 0;
    for (int e = 0; e < experts; ++e) average = fmaf(probabilities[e], slope[e], average);
    for (int e = 0; e < experts; ++e) slope[e] = probabilities[e] * (slope[e] - average);
  }
  __syncthreads();
  float* const by_image = p.by_image + image * 2 * matrix;
  for (int c = threadIdx.x; c < channels; c += kThreads) {
    float offset = 0;
    for (int e = 0; e < experts; ++e) {
      const int at = e * channels + c;
      const float w = __ldg(weights + e);
      offset = fmaf(slope[e], __ldg(p.router + at), offset);
      by_image[at] = slope[e] * mean[c];
      by_image[matrix + at] = w != 0 ? w * __ldg(grad + c) : 0.0f;
    }
    p.offset[image * channels + c] = offset / p.plane;
  }
}

#endif

}  // namespace

#ifdef SM_HOST

void mix_experts(Call& call) {
  const sm_cuda_op_params& given = call.params;
  const int64_t n = given.n, c = call.channels;
  const int experts = (int)given.experts;
  const size_t route_shared = sizeof(float) * (c + 2 * experts), matrix = experts * c;
  ExpertsParams p = experts_of(call, 3);
  const auto four = [&](const void* images) { return call.plane % 4 == 0 && call.vectors(images); };
  if (!given.backward) {
    const int shares = call.tiles(4096);
    float *const partial = call.floats(n * c * shares), *const weights = call.out(1);
    call.start("mix_experts", "pool", PoolParams{p.x, partial, call.plane, shares, four(p.x)}, n * c * shares,
               1, kWarps * sizeof(float));
    const RouteParams route = {partial,    call.in(2), weights, call.out(2),    call.channels,
                               call.plane, shares,     experts, (int)given.topk};
    call.start("mix_experts", "route", route, n, 1, route_shared);
    p.weights = weights;
    p.out = call.out(0);
    return start_experts(call, p);
  }
  p.weights = call.saved(0);
  const bool routed = call.wants(0, 1) || call.wants(2, 9);  // x's mean, too, is for the router
  int shares;
  const float* const partial = start_experts_backward(call, p, routed, &shares);
  if (!routed) return;
  const size_t width = ExpertsSums(p.rank, p.channels).width;
  float *const sums = call.floats(n * width), *const offset = call.floats(n * c),
               *const by_image = call.floats(n * 2 * matrix);
  call.sum(partial, n, shares, width).piece(sums, 0, width);
  RouteBackwardParams route = {};
  route.weights = p.weights, route.mean = call.saved(1), route.router = call.in(2);
  route.a_weight = p.a_weight, route.a_bias = p.a_bias;
  route.sums = sums, route.offset = offset, route.by_image = by_image;
  route.channels = p.channels, route.plane = p.plane, route.rank = p.rank, route.experts = experts;
  for (int e = 0; e <= experts; ++e) route.first[e] = p.first[e];
  call.start("mix_experts", "route_backward", route, n, 1, route_shared);
  if (call.wants(0, 1)) {
    const size_t count = call.planes * call.plane;
    call.start("sums", "shift",
               ShiftParams{call.out(0), offset, count, (unsigned)call.plane, four(call.out(0))},
               (count + kShiftElements - 1) / kShiftElements, 1, 0);
  }
  call.sum(by_image, 1, n, 2 * matrix).piece(call.out(2), 0, matrix).piece(call.out(8), matrix, matrix);
  sum_experts(call, p, sums, n, 3, false);
}

#endif

}  // namespace cuda
}  // namespace seemore

#ifndef SM_HOST

SM_ENTRY(pool, PoolParams, (kThreads), pool_kernel<SM_TYPE>)
SM_ENTRY(route, RouteParams, (kThreads), route_kernel)
SM_ENTRY(route_backward, RouteBackwardParams, (kThreads), route_backward_kernel)

#endif
