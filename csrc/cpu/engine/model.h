// The CPU engine's packed network, shared by what is compiled once and what is compiled per ISA.
//
// Plain structs, no STL: per-ISA code must not instantiate what the linker could merge across ISAs.
#pragma once

#include "cpu/rows/matrix.h"

namespace seemore {
namespace engine {

constexpr int kMaxExperts = 64;
constexpr int kMaxKernel = 255;   // taps of SME's stripes
constexpr int kMaxRecursive = 8;  // aggregations

struct Ffn {
  Matrix a, g, out;
  Depthwise gate;  // 3x3
};

struct Group {
  const float *norm_weight, *norm_bias;  // [C]: RME's first LayerNorm; the others are folded
  Matrix conv;                           // 3x3
  Matrix to_x, to_k;
  Depthwise stripe_h, stripe_v;  // 1x3, 3x1
  Matrix proj, expert_b, expert_c;
  Depthwise aggregate;             // 4x4, stride 4
  Depthwise low_conv;              // 3x3
  Matrix low_proj;                 // [R x C]
  const float* router;             // [E][C]
  Matrix expert_out[kMaxExperts];  // [C x r_e], bias P a_e
  Ffn rme_ffn;
  Matrix to_q, to_v, sme_proj;
  Depthwise sme_h, sme_v;  // 1xk, kx1
  Ffn sme_ffn;
};

struct Model {
  int scale, in_chans, num_experts, num_layers, dim, kernel, recursive, topk;
  int rank_sum;                 // R
  int rank[kMaxExperts];        // r_e
  int rank_start[kMaxExperts];  // first row of expert e among the R
  int padded_dim, padded_rank;  // multiples of 4
  float img_range;
  const float* mean;  // [in_chans]
  bool bf16;          // matrix operands in bf16 pairs
  Matrix head;        // 3x3, always fp32
  Group* groups;
  const float *norm_weight, *norm_bias;
  Matrix conv_2, upsampler;
};

}  // namespace engine
}  // namespace seemore
