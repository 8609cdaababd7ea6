// The table of operators that ops.cc exports for each ISA.  Declarations only, as in dispatch.h.
#pragma once

#include "seemore.h"

namespace seemore {
namespace ops {

// Parameters have been checked (api.cc); false: out of memory.
struct Op {
  const char* name;
  bool (*run)(const sm_op_params&);
  int inputs, saved;  // tensors: images and weights; what the backward needs beside them
};

// What the network's differentiable operator (network.h) works on beside its parameters.  Leaves are the
// tensors of its parts in their order: the head's; each layer's, of RME and SME, the experts' side by side;
// the tail's.
struct NetworkCall {
  const sm_network_op_params& params;
  const float* const* weights;  // leaves
  const int64_t* offsets;       // of the leaves in a vector of `floats`
  int64_t floats;
  float* gradients;  // backward: of the leaves, summed over the images
  int64_t first;     // backward: layers before this one have no gradients that count
  bool head;         // backward: the head or the image has
};

// Their sizes.
struct NetworkLeaves {
  int64_t* floats;
  int count;
};

// Parameters have been checked here, too.
struct NetworkOp {
  int before, rme, sme, after;  // leaves of the parts
  void (*leaves)(const sm_network_op_params&, NetworkLeaves&);
  int64_t (*memory)(const NetworkCall&);  // floats that run takes
  void (*run)(const NetworkCall&, float* memory);
};

struct OpsTable {
  const Op* ops;
  int count;
  NetworkOp network;
};

}  // namespace ops
}  // namespace seemore
