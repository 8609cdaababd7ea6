// Which instruction set runs: the tables that the per-ISA files export, and the choice among them.
//
// Per-ISA files include this too, so it holds declarations only.
#pragma once

#include "status.h"

namespace seemore {

namespace engine {
struct EngineTable;      // csrc/cpu/engine/run.h
struct MicrobenchTable;  // csrc/cpu/engine/microbench.h
}  // namespace engine

// Kernels of csrc/cpu/ops.cc for one ISA. Parameters have been checked (csrc/cpu/ops_api.cc); false: out of
// memory.
struct OpsTable {
  bool (*layer_norm2d)(const sm_layer_norm2d_params&);
  bool (*striped_conv2d)(const sm_striped_conv2d_params&);
  bool (*low_rank_experts)(const sm_low_rank_experts_params&);
  bool (*mix_experts)(const sm_mix_experts_params&);
};

// Kernels of csrc/cpu/train.cc for one ISA: the differentiable operators by name.
constexpr int kTrainOps = 9;
struct TrainTable {
  struct {
    const char* name;
    bool (*run)(const sm_op_params&);
  } ops[kTrainOps];
};

// Everything compiled for one ISA; a further per-ISA file adds its table here and in dispatch.cc.
struct IsaTables {
  const OpsTable* ops;
  const TrainTable* train;
  const engine::EngineTable* engine;
  const engine::MicrobenchTable* microbench;
};

// The tables in use, chosen on the first call. NULL (and sm_last_error) if SEEMORE_ISA cannot be had.
const IsaTables* tables();

}  // namespace seemore
