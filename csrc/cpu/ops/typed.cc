// The CPU kernels of the single operations; compiled once per ISA. Each is in a header of its own.
#include "cpu/ops/layer_norm2d.h"
#include "cpu/ops/low_rank_experts.h"
#include "cpu/ops/mix_experts.h"
#include "cpu/ops/striped_conv2d.h"

namespace seemore {
namespace SM_ISA {

extern const OpsTable* ops_table();

const OpsTable* ops_table() {
  static const OpsTable table = {layer_norm2d, striped_conv2d, low_rank_experts, mix_experts};
  return &table;
}

}  // namespace SM_ISA
}  // namespace seemore
