// How a forward of one shape runs: each kernel's tiles and shared memory, and where its buffers lie.
#pragma once

#include <cstddef>

#include "cuda/pack.h"
#include "cuda/runtime.h"

namespace seemore {
namespace cuda {

// One kernel's tiles.
struct Step {
  Tiling at;
  size_t shared;  // bytes; 0: no tile fits
};

struct Plan {
  Step rme, mix_ffn, ffn, sme, ends;
  bool sme_rounds;  // stripes of 8 channels at a time
  int blocks;       // of rme, per image
  int mix_offset;   // within mix_ffn's shared memory
  int most_rows, most_columns;
  int low_h[8], low_w[8];  // levels of aggregation, the first is a quarter of the image
  // Bytes from the start of the workspace.
  size_t skip, stream[2], b, c, low[8], partial, total;
};

constexpr int kMostRecursive = 8;

// Sets shared to 0 in a step that no tile is small enough for.
Plan make_plan(const Network& net, int element_bytes, const DeviceInfo& device, int n, int h, int w);

}  // namespace cuda
}  // namespace seemore
