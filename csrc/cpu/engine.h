// The CPU engine's data, shared by model.cc (compiled once) and engine.cc (compiled per ISA).
//
// Plain structs, no STL: engine.cc must not instantiate code that the linker could merge across ISAs.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "seemore.h"

namespace seemore {

struct Barrier;

// Output channels a micro-kernel computes at once.  Matrices are packed for it in blocks of kBlock rows;
// the last block has 4, 8 or 12.
constexpr int kBlock = 12;
constexpr int kColumnAlign = 16;  // rows are padded to whole vectors of the widest ISA
constexpr int kMaxExperts = 64;

// Rows beyond its own that a thread reads in a pass, at most: a 3x3 convolution's in groups of rows, or half
// a stripe.
constexpr int kConvReach = 5;
constexpr int reach_of(int kernel) { return kernel / 2 > kConvReach ? kernel / 2 : kConvReach; }

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Columns that a strip reads of the one to its left, in whole vectors, at most.
constexpr int halo_columns(int kernel) { return round_up(kernel / 2 > 2 ? kernel / 2 : 2, kColumnAlign); }

// A convolution as a matrix: M output channels from `taps` rows of K input channels each.
struct Matrix {
  const float* weight;  // [blocks of M][taps][K units][rows of the block]; a unit is one fp32 or two bf16
  const float* bias;    // [M]
  int m;                // padded to a multiple of 4 with zero rows
  int k;                // in units
  int taps;             // 1 (1x1), 9 (3x3), 18 or 12 (3x3 for four or two rows at once: see conv.h)
};

struct Depthwise {
  const float* weight;  // [C][taps]
  const float* bias;    // [C]
  int taps;
};

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

// What is computed: an image, or a crop of one, of which the inner part is wanted.
struct Area {
  int h, w;
  int y0, y1, x0, x1;  // the inner part; y0 and x0 are multiples of 4
  int top, left;       // where the crop begins in the image
  int full_h, full_w;  // size of the image
};

// How an area is cut up; every size in floats.
struct Plan {
  Area area;
  int padded_w;  // columns of a stored row
  int threads;
  int strip;               // columns of a strip
  int low_h[8], low_w[8];  // size after each aggregation: the first of the area, the others of its inner part
  int map_h, map_w;        // size of the image's map
  size_t plane, ranks;     // x; b or c
  size_t columns, border;  // copies of what a pass overwrites (planes.h): all strips', one thread's
  size_t low[8], map;
  size_t sums;
  size_t scratch;    // of one thread
  size_t workspace;  // b, c, low, sums, columns, borders
};

struct Image {
  const void* input;  // of the area
  void* output;       // of its inner part
  bool u8;            // uint8 in 0..255 instead of float in 0..1, both ways
};

// The router's decision for one image.
struct Routing {
  int count;
  int expert[kMaxExperts];
  float weight[kMaxExperts];
};

struct Run {
  const Model* model;
  const Plan* plan;
  Image image;
  float* stream;  // [h][padded_dim][padded_w]: the residual stream
  float* map;     // of the image, padded_rank channels, laid out as LowMap (planes.h)
  float* workspace;
  float* scratch;
  sm_phase phase;     // of a tile: this phase; the rest is for it
  int group;          // pool, calibrate, group
  float* aggregated;  // of the image, padded_dim channels, laid out as LowMap: pool writes, calibrate reads
  double* sums;       // pool: [dim]
  Routing routing;    // group
  Barrier* barrier;
  int (*poll)(void* context);
  void* poll_context;
  int stop;  // set once poll asks for it; every thread then only passes the barriers
};

// What engine.cc exports, for each ISA.
struct EngineTable {
  bool bf16;  // has the bf16 mode
  size_t (*scratch_floats)(const Model&, const Plan&);
  void (*forward)(Run& run, int thread, int threads);
  void (*tile)(Run& run, int thread, int threads);  // one phase
};

}  // namespace seemore
