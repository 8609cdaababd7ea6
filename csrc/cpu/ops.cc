// The CPU kernels of the single operations; compiled once per ISA.
#include "cpu/dispatch.h"
#include "cpu/simd.h"

namespace seemore {
namespace SM_ISA {

extern const OpsTable* ops_table();

const OpsTable* ops_table() {
  static const OpsTable table = {VL};
  return &table;
}

}  // namespace SM_ISA
}  // namespace seemore
