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
namespace ops {
struct OpsTable;  // csrc/cpu/ops/ops.h
}  // namespace ops

// Everything compiled for one ISA; a further per-ISA file adds its table here and in dispatch.cc.
struct IsaTables {
  const ops::OpsTable* ops;
  const engine::EngineTable* engine;
  const engine::MicrobenchTable* microbench;
};

// The tables in use, chosen on the first call. NULL (and sm_last_error) if SEEMORE_ISA cannot be had.
const IsaTables* tables();

}  // namespace seemore
