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

struct OpsTable {
  const Op* ops;
  int count;
};

}  // namespace ops
}  // namespace seemore
