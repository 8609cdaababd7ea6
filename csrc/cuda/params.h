// Parameters of the kernels: plain structs of device pointers and sizes.
//
// Streams between kernels are [N, H, W, CP]: CP is the embedding dimension rounded up to 8 NT, the channels
// beyond it hold zeros. RP is the sum of the experts' ranks rounded up to 16.
#pragma once

#include <cstdint>

namespace seemore {
namespace cuda {

constexpr int kMostExperts = 64;

// Elements between pixels in shared memory: an odd number of 16-byte units, so that eight pixels' units lie
// in different banks.
constexpr int pixel_stride(int channels, int element_bytes) {
  const int unit = 16 / element_bytes;
  return (channels / unit | 1) * unit;
}

// A matrix in fragments (pack.h): `tiles` times 8 outputs.
struct Dense {
  const void* weight;
  const float* bias;  // [8 tiles]
  int tiles;
};

// A depthwise convolution.
struct Depthwise {
  const float* weight;  // [taps, CP]
  const float* bias;    // [CP]
};

// LayerNorm's affine part, where it could not be folded.
struct Norm {
  const float* weight;  // [CP]
  const float* bias;    // [CP]
};

// The image and how blocks share it: block (i, n) computes tiles i, i + grid.x, .. of image n.
struct Tiling {
  int h, w;            // pixels
  int dim;             // channels that are real
  int tile_h, tile_w;  // multiples of 8
  int across, count;   // tiles in a row, and in the image
};

enum class PixelType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kUInt8 = 3 };

struct HeadParams {
  Tiling at;
  const void* in;  // [N, in_chans, H, W]
  PixelType type;
  int in_chans;
  float range;
  const float* mean;    // [in_chans]
  const float* weight;  // [in_chans, 9, CP]
  const float* bias;    // [CP]
  void* out;            // [N, H, W, CP]
};

struct RmeParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* yp;        // [N, H, W, CP]: in + proj x
  void *b, *c;     // [N, H, W, RP]: B x, C k
  float* low;      // [N, low_h, low_w, CP]: k aggregated once
  float* partial;  // [N, grid.x, experts]: router logits of the block's pixels, summed
  int low_h, low_w;
  int experts;  // at most kMostExperts
  Norm norm;
  Dense conv, to_x, to_k, proj, expert_b, expert_c;
  Depthwise stripe_h, stripe_v, aggregate;
  const float* router;  // [experts, CP]
};

struct AggregateParams {
  const float* in;  // [N, in_h, in_w, CP]
  float* out;       // [N, out_h, out_w, CP]
  int in_h, in_w, out_h, out_w;
  Depthwise weight;
};

// The experts' part of the first feed-forward.
struct MixParams {
  const void *b, *c;     // [N, H, W, RP]
  const float* partial;  // [N, blocks, experts]
  const float* low;      // [N, low_h, low_w, CP]: the last level of aggregation, or the one before it
  int low_h, low_w;
  bool aggregate_again;         // `low` is the level before the last
  int map_h, map_w;             // the last level
  int most_rows, most_columns;  // of it that a tile needs
  int blocks, experts, topk;
  int ranks;              // RP
  const int* rank_of;     // [RP]: the expert that a row belongs to
  const float* bias_out;  // [experts, CP]
  Depthwise aggregate, low_conv;
  const float* low_proj;       // [CP, RP]
  const float* low_proj_bias;  // [RP]
  Dense expert_out;            // [RP, CP]: P A_e, 16 rows after 16
};

struct FfnParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* out;       // [N, H, W, CP]
  Dense g, a, out_weight;
  Depthwise gate;
  MixParams mix;
  int mix_offset;  // bytes of shared memory before what mix.cuh keeps
};

struct SmeParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* out;       // [N, H, W, CP]
  int kernel;
  Dense to_q, to_v, proj;
  Depthwise stripe_h, stripe_v;
};

struct ConvParams {
  Tiling at;
  const void* in;    // [N, H, W, CP]
  const void* skip;  // [N, H, W, CP]
  void* out;         // [N, H, W, CP]
  Norm norm;
  Dense conv;
};

struct UpsampleParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* out;       // [N, in_chans, H * scale, W * scale]
  PixelType type;
  int in_chans, scale;
  float range;
  const float* mean;  // [in_chans]
  Dense conv;         // rows of PixelShuffle: channel, row, column
};

}  // namespace cuda
}  // namespace seemore
