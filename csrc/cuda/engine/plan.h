// How a forward of one shape runs: each kernel's tiles and shared memory, and where its buffers lie.
#pragma once

#include <cstddef>

#include "cuda/engine/pack.h"
#include "cuda/runtime.h"

namespace seemore {
namespace cuda {

constexpr int kMostRecursive = 8;

// One kernel's tiles.
struct Step {
  Tiling at;
  size_t shared;  // bytes; 0: no tile fits
  unsigned threads;
};

// A part of the workspace.
struct Buffer {
  const char* name;
  size_t at, bytes;  // at: from the start of the workspace
};

struct Plan {
  Step rme, mix_ffn, ffn, sme, ends;
  bool sme_rounds;   // stripes of 8 channels at a time
  bool sme_broad;    // stripes of planes_at_once() channels, of 11 in 16 bit
  int pixel_bytes;   // of a pixel of a narrow network in shared memory
  int blocks;        // of rme, or of a wide network's logits, per image
  int most_columns;  // of the coarse map that a tile of mix_ffn needs
  // Levels of aggregation, the first a quarter of the image.
  int low_h[kMostRecursive], low_w[kMostRecursive];
  // Bytes from the start of the workspace.
  size_t skip, stream[2], b, c, low[kMostRecursive], partial, total;
  size_t map, weight, bias;
  size_t plane[4], mixed;  // of wide networks alone, whose streams are the same one
  Buffer buffers[24];      // all of them
  int count;
};

// Sets shared to 0 in a step that no tile is small enough for.
Plan make_plan(const Network& net, sm_cuda_precision precision, const DeviceInfo& device, int n, int h,
               int w);

}  // namespace cuda
}  // namespace seemore
