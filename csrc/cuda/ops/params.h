// The operators' kernels: their parameters.
//
// Images are planar, [N, C, H, W], float32, float16 or bfloat16; weights, partial sums and gradients of
// weights are float32. A block takes the tiles `share`, share + shares, .. of an image or plane, and adds
// what it sums up to its own place in `partial`, which holds zeros before: so sums have one order, whatever
// the GPU.
#pragma once

#include "cuda/common.h"

namespace seemore {
namespace cuda {

constexpr int kMostTaps = 63;    // what fits into 99 KB of shared memory, in both directions
constexpr int kMostRanks = 240;  // likewise
constexpr int kStripeTile = 32;  // side of a tile of striped_conv2d

// Block: share + shares * plane.
struct StripesParams {
  const void* x;          // [N, C, H, W]
  const float* weight_h;  // [C, taps]
  const float* bias_h;    // [C]
  const float* weight_v;  // [C, taps]
  const float* bias_v;    // [C]
  const void* grad;       // [N, C, H, W]: backward; forward with it: the gradient before GELU comes out
  void* out;              // [N, C, H, W]: result, gradient before GELU, or (backward) of x unless null
  float* partial;         // [N, shares, C, 2 taps + 2]: weight_h, weight_v, bias_h, bias_v; or null
  int channels, h, w, taps;
  int shares;
  bool gelu;
};

// Block: (share, image).
struct ExpertsParams {
  const void *x, *k;      // [N, C, H, W]
  const float* b_weight;  // [R, C]
  const float* b_bias;    // [R]
  const float* c_weight;  // [R, C]
  const float* c_bias;    // [R]
  const float* a_weight;  // [C, R]
  const float* a_bias;    // [experts, C]
  const float* weights;   // [N, experts]; null: 1, and x is not added
  const void* grad;       // [N, C, H, W], backward
  void* out;              // [N, C, H, W]: result or, unless null, gradient of x
  void* grad_k;           // [N, C, H, W] or null, backward
  float* partial;         // [N, shares, 3 R C + 3 R + C] or null, backward: of b_weight, c_weight, a_weight
                          // [R, C], of b_bias, c_bias, sum of grad, derivative by each rank's scale
  int channels, plane, rank, experts;
  int first[kMostExperts + 1];  // ranks of expert e: first[e] .. first[e + 1] - 1
};

// Block: share + shares * plane's number.
struct PoolParams {
  const void* x;   // [N, C, plane]
  float* partial;  // [N, C, shares]
  int plane, shares;
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
  const float* weights;  // [N, experts]
  const float* mean;     // [N, C]
  const float* router;   // [experts, C]
  const float* a_bias;   // [experts, C]
  const float* sums;     // [N, 3 R C + 3 R + C]: ExpertsParams' partial, summed
  float* offset;         // [N, C]: what the router adds to the gradient of x at every pixel
  float* by_image;       // [N, 2, experts, C]: gradients of router and a_bias
  int channels, plane, rank, experts;
  int first[kMostExperts + 1];
};

// Bytes of dynamic shared memory.
constexpr size_t stripes_shared(int taps, bool backward) {
  const size_t side = kStripeTile + taps - 1, pitch = side + 1;
  const size_t forward = side * pitch + side * (kStripeTile + 1);
  return sizeof(float) * (backward ? forward + side * pitch + kStripeTile * pitch : forward);
}
constexpr size_t experts_shared(int rank, int pixels, bool backward) {
  const size_t products = (size_t)rank * pixels, staged = 32 * (pixels + 1);
  return sizeof(float) * (backward ? 3 * products + staged : products) + 2 * sizeof(float) * (rank + 1);
}
constexpr size_t route_shared(int channels, int experts) { return sizeof(float) * (channels + 2 * experts); }

}  // namespace cuda
}  // namespace seemore
