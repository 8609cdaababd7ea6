// The differentiable operators, forward and backward, by name; compiled once per ISA.
#include "cpu/ops/ops.h"

#include "cpu/ops/calibrate.h"
#include "cpu/ops/gated_ffn.h"
#include "cpu/ops/layer_norm2d.h"
#include "cpu/ops/low_rank_experts.h"
#include "cpu/ops/mix_experts.h"
#include "cpu/ops/network.h"
#include "cpu/ops/op.h"
#include "cpu/ops/rme.h"
#include "cpu/ops/sme.h"
#include "cpu/ops/striped_attention.h"
#include "cpu/ops/striped_conv2d.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

extern const seemore::ops::OpsTable* table();

namespace {

template <class T>
constexpr seemore::ops::Op entry(const char* name) {
  const sm_op_params* none = nullptr;
  return {name, run<T>, T::kImages + decltype(T::sizes(*none))::kCount, decltype(T::saved(*none))::kCount};
}

constexpr seemore::ops::Op kOps[] = {
    entry<Calibrate>("calibrate"),
    entry<GatedFfn>("gated_ffn"),
    entry<LayerNorm2d>("layer_norm2d"),
    entry<LowRankExperts>("low_rank_experts"),
    entry<MixExperts>("mix_experts"),
    entry<RmeOp>("rme"),
    entry<SmeOp>("sme"),
    entry<StripedAttention>("striped_attention"),
    entry<StripedConv2d>("striped_conv2d"),
};

}  // namespace

const seemore::ops::OpsTable* table() {
  using Net = Network<Fp32>;
  static const seemore::ops::OpsTable table = {
      kOps,
      sizeof kOps / sizeof *kOps,
      {Ends::kBefore, Net::kRme, Net::kSme, Ends::kAfter, Net::leaves, network_memory, run_network}};
  return &table;
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
