// Folded weights in the kernels' layout, in one piece of memory that goes to the device as it is.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/engine/params.h"
#include "seemore_cuda.h"

namespace seemore {
namespace cuda {

// Everything of a network that does not depend on the image: kernel parameters with their weights filled in.
struct Network {
  int scale, in_chans, experts, topk, recursive, kernel, dim;
  int width;  // tiles of 8 channels in a stream: CP = 8 width
  bool wide;  // runs on wide.cuh's kernels; CP is then a multiple of 16
  int ranks;  // RP
  HeadParams head;
  struct Group {
    RmeParams rme;
    FfnParams rme_ffn, sme_ffn;
    SmeParams sme;
  };
  std::vector<Group> groups;
  ConvParams conv;
  UpsampleParams upsample;
};

// Of an activation.
inline int element_bytes(sm_cuda_precision precision) {
  return precision == SM_CUDA_FP16 || precision == SM_CUDA_BF16 ? 2 : 4;
}

// Writes the weights behind `memory` (a whole number of 256 bytes; null: only counts) and makes parameters
// that point to where they will be on the device, `address`. Returns the bytes. rounds: a narrow network's
// stripes run 8 channels at once (Plan), of whatever length.
size_t pack(const sm_network& net, sm_cuda_precision precision, int width, bool wide, bool rounds,
            unsigned char* memory, unsigned char* address, Network* out);

}  // namespace cuda
}  // namespace seemore
