// What low_rank_experts and mix_experts share: the experts' kernels, which low_rank_experts.cu has.
#pragma once

#include "cuda/ops/host.h"

namespace seemore {
namespace cuda {

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
  float* partial;         // [N, shares, ExpertsSums::width] or null, backward
  int channels, plane, rank, experts;
  int parts;                    // of 32 lanes' pixels, in a tile
  int first[kMostExperts + 1];  // ranks of expert e: first[e] .. first[e + 1] - 1
};

// Sums over pixels, one after the other: where each begins.
struct ExpertsSums {
  size_t b, c, a;         // gradients of b_weight, c_weight and, transposed, a_weight: [R, C]
  size_t b_bias, c_bias;  // their gradients: [R]
  size_t grad;            // of the gradient: [C]
  size_t width;           // of all

  SM_HOST_DEVICE ExpertsSums(int rank, int channels) {
    const size_t matrix = (size_t)rank * channels;
    b = 0, c = matrix, a = 2 * matrix;
    b_bias = 3 * matrix, c_bias = b_bias + rank;
    grad = c_bias + rank;
    width = grad + channels;
  }
};

// Of a tile, each of 32 V pixels.
template <int V>
constexpr int kPartsOf = V > 1 ? 2 : 1;

#ifdef SM_HOST

// Of operators whose inputs are x, k and, from the `first` on, matrices and biases.
ExpertsParams experts_of(const Call& call, int first);

void start_experts(Call& call, ExpertsParams p);

// Gradients of x and k where the call wants them; returns the sums of `shares` blocks of each image, null
// unless `sums`.
const float* start_experts_backward(Call& call, ExpertsParams p, bool sums, int* shares);

// Adds up `parts` sums; gradients of matrices and biases from output `first` on, a_bias where `own_bias`.
void sum_experts(Call& call, const ExpertsParams& p, const float* sums, int64_t parts, int first,
                 bool own_bias);

#endif

}  // namespace cuda
}  // namespace seemore
