// Parameters of the kernels: plain structs of device pointers and sizes.
//
// Streams between kernels are [N, H, W, CP]: CP is the embedding dimension rounded up to 8 NT, or for wide
// networks to 16; the channels beyond it hold zeros. RP is the sum of the experts' ranks rounded up to 16.
#pragma once

#include "cuda/common.h"

namespace seemore {
namespace cuda {

// Widths that kernels are compiled for, in tiles of 8 channels: the narrowest that holds a network's is used.
// Networks beyond the last run on the kernels of wide.cuh.
constexpr int kWidths[] = {5, 6, 8};

// Elements between pixels in shared memory: an odd number of 16-byte units, so that eight pixels' units lie
// in different banks.
constexpr int pixel_stride(int channels, int element_bytes) {
  const int unit = 16 / element_bytes;
  return (channels / unit | 1) * unit;
}

// A matrix in fragments (pack.cc): `tiles` times 8 outputs.
struct Dense {
  const void* weight;
  const float* bias;  // [8 tiles]; in 16 bit and Matrix's order its upper and lower half as two numbers
  int tiles;
};

// A depthwise convolution.
struct Depthwise {
  const float* weight;  // [taps, CP]
  const float* bias;    // [CP]
};

// The same in the format of activations.
struct Taps {
  const void* weight;  // [taps, CP]
  const void* bias;    // [CP]
};

// LayerNorm's affine part, where it could not be folded.
struct Norm {
  const float* weight;  // [CP]
  const float* bias;    // [CP]
};

// The image and its tiles: block (i, j, n) has tile i of row j of image n.
struct Tiling {
  int h, w;            // pixels
  int dim;             // channels that are real
  int tile_h, tile_w;  // of rme and sme a divisor of 32; 16 or 32
  int across, count;   // tiles in a row, and in the image
};

enum class PixelType : int { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2, kUInt8 = 3 };

struct HeadParams {
  Tiling at;
  const void* in;  // [N, in_chans, H, W]
  PixelType type;
  int in_chans, channels;  // channels: CP
  float range;
  const float* mean;    // [in_chans]
  const float* weight;  // [in_chans, 9, CP]
  const float* bias;    // [CP]
  const void* product;  // the same as matrices of 16 inputs, for kMostProductChannels at most
  int pitch, plane;     // head_pitch() and head_plane() of the tile
  void* out;            // [N, H, W, CP]
};

constexpr int kMostProductChannels = 8;

// Of the head that is a product: pixels from a row of a tile with its border to the next, and from a channel
// to the next. Rows of a neighbourhood begin 11 banks apart, or 21, channels 0: what lanes read of 8 pixels
// lies in banks of its own.
constexpr int head_pitch(int tile_w) { return tile_w == 32 ? 43 : 21; }
constexpr int head_plane(int tile_h, int tile_w) {
  return ((tile_h + 2) * head_pitch(tile_w) + 31) / 32 * 32;
}

// Shared memory of the head that is a product.
constexpr int head_bytes(int tile_h, int tile_w, int in_chans, int pixel_bytes) {
  return tile_h * tile_w * pixel_bytes + head_plane(tile_h, tile_w) * in_chans * 4 +
         (9 * in_chans + 15) / 16 * 16 * 4;
}

// Rows of a column that a thread filters at once: of rme's stripes; of the feed-forward's gate, 8 where the
// tile's height is a multiple of that, else as many as go into the heights of pictures of 16:9.
template <int element_bytes>
constexpr int kStripedRows = element_bytes == 2 ? 8 : 4;
template <int width>
constexpr int kGatedRows = width <= 5 ? 5 : 6;
// Fragments below each other that share the weights of a conv 3x3, as many as registers hold the sums of, in
// `rme`, in `conv` and in `upsample`. half_sums: they are float16 (fp16, but for `upsample`).
constexpr int rme_together(int width, int element_bytes, bool half_sums) {
  return element_bytes == 4 ? 1 : half_sums ? (width <= 5 ? 6 : 4) : width <= 5 ? 3 : 2;
}
constexpr int conv_together(int width, int element_bytes, bool half_sums) {
  return half_sums ? 4 : rme_together(width, element_bytes, false);
}
constexpr int upsample_together(int width, int outputs, int element_bytes) {
  return element_bytes == 4 ? 1 : outputs <= 2 ? 4 : width <= 6 ? 3 : 2;
}

// What the shared memory of `rme` begins with.
constexpr int kKeptByRme = 32;

// Pixels in shared memory of a kernel of the tail, which computes `together` rows at a time.
constexpr int tail_pixels(int tile_h, int tile_w, int together) {
  return ((tile_h + together - 1) / together * together * (tile_w + 2) + 2 * (tile_w + 2) + 15) / 16 * 16;
}

struct RmeParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* yp;        // [N, H, W, CP]: in + proj x
  void *b, *c;     // [N, H, W, RP]: B x, C k
  float* low;      // [N, low_h, low_w, CP]: k aggregated once
  float* partial;  // [N, tiles, experts]: router logits of a tile's pixels, summed
  int low_h, low_w;
  int experts;  // at most kMostExperts
  Taps norm;    // LayerNorm's affine part; in 16 bit `weight` has both (pack.cc)
  Dense conv, to_x, to_k, proj, expert_b, expert_c;
  Taps stripe_h, stripe_v;
  Taps aggregate;
  Dense logits;  // the router: of four experts the upper and the lower half of their weights as 8 outputs
  // Of wide networks.
  const float* router;  // [experts, CP]
  Norm wide_norm;
  Depthwise wide_stripe_h, wide_stripe_v;
};

// A depthwise convolution on its own: stripes and gates of wide networks, levels of aggregation of all.
struct FilterParams {
  const void* in;     // [N, in_h, in_w, CP]
  const void* times;  // [N, out_h, out_w, CP]: multiplies the result; null: nothing does
  void* out;          // [N, out_h, out_w, CP]
  int in_h, in_w, out_h, out_w;
  int channels;                          // CP
  int rows, columns, stride, top, left;  // kernel, and its zero padding above and on the left
  bool gelu;
  Depthwise conv;
};

// What follows the pooling barrier: routing, the coarse map, the experts.
struct MixParams {
  const void *b, *c;     // [N, H, W, RP]
  const float* partial;  // [N, blocks, experts]
  const float* low;      // [N, low_h, low_w, CP]: the last level of aggregation, or the one before it
  int low_h, low_w;
  bool aggregate_again;  // `low` is the level before the last
  int map_h, map_w;      // the last level
  int full_h, full_w;    // the image that the map is of: at's, or of which at's is a crop
  int top, left;         // where that begins
  int most_columns;      // of the map that a tile needs
  int blocks, experts, topk;
  int ranks;              // RP
  const int* rank_of;     // [RP]: the expert that a row belongs to
  const float* bias_out;  // [experts, CP]
  Depthwise aggregate, low_conv;
  const float* low_proj;       // [CP, RP]
  const float* low_proj_bias;  // [RP]
  Dense expert_out;            // [RP, CP]: P A_e, 16 rows after 16
  // What the narrow networks' kernel before the feed-forward leaves (coarse.cuh).
  void* map;      // [N, map_h, map_w, RP]
  float* weight;  // [N, RP]: the probability of the row's expert if chosen, else 0
  float* bias;    // [N, CP]: the chosen experts' biases, weighted
};

struct CoarseParams {
  Tiling at;
  MixParams mix;
};

constexpr int kCoarseColumns = 8;  // of the map that a block of its kernel computes, in one row

// Floats from a column to the next whose lanes read the same channel: in banks of their own.
constexpr int coarse_pitch(int width) { return 8 * (width | 1); }
// That kernel's shared memory.
constexpr int coarse_bytes(int width, int experts) {
  return (3 * (kCoarseColumns + 2) * 8 * width + kCoarseColumns * coarse_pitch(width) + experts) *
         (int)sizeof(float);
}

struct FfnParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* out;       // [N, H, W, CP]
  Dense g, a, out_weight;
  Taps gate;
  Depthwise wide_gate;  // of wide networks
  MixParams mix;
};

// Whether the stripes are banded matrices (sme.cuh).
constexpr bool has_bands(int kernel, int element_bytes) { return kernel == 11 && element_bytes == 2; }
// Of that kernel, which is made for tiles of `rows`, kBandRows and fewer, or twice as many: elements of a row
// of a plane of q, which are the tile's 26 with border, two ones for the bias, and 12 more; of a plane. Eight
// rows lie in different banks, and eight planes.
constexpr int kBandRows = 16, kPlanePitch = 40;
template <int rows>
constexpr int kPlaneOf = (rows + 10) * kPlanePitch + 8;
// Planes of 32 rows that the shared memory of an H100 holds beside the pixels, 16 or more.
constexpr int planes_at_once(int width) { return width <= 5 ? 40 : 32; }
// What its shared memory begins with: planes, and what a block keeps.
constexpr int kKeptByBands = 16;
constexpr int bands_bytes(int tile_h, int planes, int element_bytes) {
  return planes * (tile_h > kBandRows ? kPlaneOf<2 * kBandRows> : kPlaneOf<kBandRows>)*element_bytes +
         kKeptByBands;
}

struct SmeParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* out;       // [N, H, W, CP]
  int kernel;
  Dense to_q, to_v, proj;
  Depthwise stripe_h, stripe_v;
  const void *bands_h, *bands_v;  // [16 times as many as it takes, 32 lanes, 4 words]: pack.cc
};

struct ConvParams {
  Tiling at;
  const void* in;    // [N, H, W, CP]
  const void* skip;  // [N, H, W, CP]
  void* out;         // [N, H, W, CP]
  Norm norm;
  Dense conv;
};

// Tiles of 8 outputs that the upsampler's kernel computes in a pass.
constexpr int upsample_pass(int scale, int in_chans) { return scale == 4 && in_chans == 3 ? 6 : 2; }

struct UpsampleParams {
  Tiling at;
  const void* in;  // [N, H, W, CP]
  void* out;       // [N, in_chans, H * scale, W * scale]
  PixelType type;
  int in_chans, scale, channels;  // channels: CP
  float range;
  const float* mean;  // [in_chans]
  Dense conv;         // rows of PixelShuffle: channel, row, column
};

// Kernels of wide networks (wide.cuh). They have no use for the tiles of `at`.

struct NormaliseParams {
  Tiling at;
  int channels;    // CP
  const void* in;  // [N, H, W, CP]
  void* out;       // [N, H, W, CP]
  Norm norm;       // null pointers: folded into what follows
};

constexpr int kTogether = 2;  // fragments of 16 pixels that share the weights which a warp loads

// A dense layer: out = residual + GELU(layer in).
struct ProductParams {
  Tiling at;
  int channels;          // of in, a multiple of 16
  int taps;              // 1, or 9: 3x3, zero padded
  const void* in;        // [N, H, W, channels]
  const void* residual;  // [N, H, W, 8 tiles], null: none
  void* out;             // [N, H, W, 8 tiles]
  Dense layer;
  int bias_step;  // from an image's bias to the next one's; 0: all have the same
  bool gelu;
};

struct LogitsParams {
  Tiling at;
  int channels, experts;  // channels: CP
  const void* in;         // [N, H, W, CP]
  const float* router;    // [experts, CP]
  float* partial;         // [N, grid.x, experts]: router logits of the block's pixels, summed
};

// The experts, in three kernels: the coarse map, the weights of an image, the experts' products.
struct WideMixParams {
  Tiling at;
  int channels;  // CP
  MixParams mix;
  const float* mixed;  // [N, map_h, map_w, CP]: the last level after its depthwise convolution
  float* map;          // [N, map_h, map_w, RP]
  float* weight;       // [N, RP]: the probability of the row's expert if chosen, else 0
  float* bias;         // [N, CP]: the chosen experts' biases, weighted
  void* z;             // [N, H, W, RP]: b * (c + map, resized) * weight; may be b
};

}  // namespace cuda
}  // namespace seemore
