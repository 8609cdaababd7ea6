// The launches of a forward, in order, on one stream: run.cc has those of narrow networks and of both ends,
// wide.cc those of wide ones.
#pragma once

#include "cuda/engine/kernels.h"
#include "cuda/engine/plan.h"
#include "seemore_cuda.h"

namespace seemore {
namespace cuda {

// Returns what failed, or nullptr.
const char* run(const Network& net, const Kernels& kernels, const Plan& plan,
                const sm_cuda_forward_params& params);

struct Run {
  const Network& net;
  const Kernels& kernels;
  const Plan& plan;
  const sm_cuda_forward_params& params;
  const char* error = nullptr;  // nothing is started any more
  int64_t started = 0;

  unsigned images() const { return (unsigned)params.n; }
  void* at(size_t offset) const { return static_cast<unsigned char*>(params.workspace) + offset; }
  float* floats(size_t offset) const { return static_cast<float*>(at(offset)); }
  PixelType pixels() const { return static_cast<PixelType>(params.pixels); }
  int channels() const { return 8 * net.width; }  // CP

  template <class Params>
  void start(const Kernel<Params>& kernel, const Params& p, unsigned blocks, size_t shared) {
    if (error || (params.launches && started == params.launches)) return;
    error = kernel.start(p, {blocks, images()}, shared, params.stream);
    ++started;
  }

  template <class Params>
  void start(const Kernel<Params>& kernel, const Params& p, const Step& step) {
    start(kernel, p, (unsigned)step.at.count, step.shared);
  }

  // Blocks that have a thread, or a warp, for each task of an image.
  unsigned blocks_for(size_t tasks) const { return (unsigned)((tasks + 255) / 256); }
  unsigned blocks_of_warps(size_t tasks) const { return (unsigned)((tasks + 7) / 8); }

  void head();
  // One level of aggregation, not the first, in a kernel of its own.
  void aggregate(const Depthwise& conv, int level);
  // in -> out over both streams: they alternate, for a kernel reads its neighbours' pixels.
  void group(const Network::Group& g, void* in, void* even, void* odd);
  void tail(const void* in, void* between);

  // in -> stream 0.
  void wide_group(const Network::Group& g, const void* in);
  // stream 0, or skip where there are no groups, -> the output.
  void wide_tail(const void* in);
};

}  // namespace cuda
}  // namespace seemore
