// The launches of a forward, in order, on one stream: run.cc has those of narrow networks and of both ends,
// wide.cc those of wide ones, phases.cc those of a tile of an image.
#pragma once

#include "cuda/engine/kernels.h"
#include "cuda/engine/plan.h"
#include "seemore_cuda.h"

namespace seemore {
namespace cuda {

// Where the kernels find what they leave to each other; params.h has the shapes.
struct Memory {
  void *skip, *stream[2], *b, *c;
  float *low[kMostRecursive], *partial;
  void* map;
  float *weight, *bias;
  void* plane[4];  // of wide networks, as is the last
  float* mixed;
};

// A crop of an image.
struct Window {
  int full_h, full_w, top, left;
};

// Returns what failed, or nullptr.
const char* run(const Network& net, const Kernels& kernels, const Plan& plan,
                const sm_cuda_forward_params& params);

// One phase of a tile. `plan` is the whole image's.
const char* run_tile(const Network& net, const Kernels& kernels, const Plan& plan, int element,
                     const sm_cuda_tile_params& params);
// Bytes that any of them needs for a crop of h x w.
size_t tile_workspace(const Network& net, const Plan& plan, int element, size_t h, size_t w);

// Bytes of a value of the coarse map.
inline int map_element(const Network& net, int element) { return net.wide ? (int)sizeof(float) : element; }

inline size_t bytes_of(sm_cuda_pixels pixels) {
  return pixels == SM_CUDA_PIXELS_FP32 ? 4 : pixels == SM_CUDA_PIXELS_U8 ? 1 : 2;
}

struct Run {
  const Network& net;
  const Kernels& kernels;
  const Plan& plan;
  const sm_cuda_forward_params& params;
  Memory memory;
  Window window;
  const char* error = nullptr;  // nothing is started any more
  int64_t started = 0;

  unsigned images() const { return (unsigned)params.n; }
  PixelType pixels() const { return static_cast<PixelType>(params.pixels); }
  int channels() const { return 8 * net.width; }  // CP

  template <class Params>
  void start(const Kernel<Params>& kernel, const Params& p, const Grid& grid, size_t shared) {
    if (error || (params.launches && started == params.launches)) return;
    error = kernel.start(p, grid, shared, params.stream);
    ++started;
  }
  // So many blocks for each image.
  template <class Params>
  void start(const Kernel<Params>& kernel, const Params& p, unsigned blocks, size_t shared) {
    start(kernel, p, Grid{blocks, 1, images()}, shared);
  }
  // A block to a tile, so that no kernel has to divide for its place.
  Grid grid_of(const Tiling& at, unsigned threads) const {
    return {(unsigned)at.across, (unsigned)(at.count / at.across), images(), threads};
  }
  template <class Params>
  void start(const Kernel<Params>& kernel, const Params& p, const Step& step) {
    start(kernel, p, grid_of(step.at, step.threads), step.shared);
  }

  // Blocks that have a thread, or a warp, for each task of an image.
  unsigned blocks_for(size_t tasks) const { return (unsigned)((tasks + 255) / 256); }
  unsigned blocks_of_warps(size_t tasks) const { return (unsigned)((tasks + 7) / 8); }

  void head(void* to);
  // One level of aggregation, not the first, in a kernel of its own.
  void aggregate(const Depthwise& conv, int level);
  // A group in three parts: up to the pooling barrier, in -> stream 1; what is known of the whole image; and
  // the rest, stream 1 -> stream 0. Streams alternate, for a kernel reads its neighbours' pixels; a wide
  // network's may be one.
  void before_pooling(const Network::Group& g, const void* in);
  void pooled(const Network::Group& g);
  void after_pooling(const Network::Group& g);
  MixParams mix_of(const Network::Group& g) const;
  void tail(const void* in, void* between);

  // What the above do for wide networks, in planes.
  void wide_before_pooling(const Network::Group& g, const void* in);
  void wide_pooled(const Network::Group& g);
  void wide_after_pooling(const Network::Group& g);
  void wide_tail(const void* in);
};

}  // namespace cuda
}  // namespace seemore
