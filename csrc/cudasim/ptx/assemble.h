// A kernel of a PTX module, ready to run: operands have their places, branches know where they meet again.
#pragma once

#include <string>
#include <vector>

#include "cudasim/ptx/program.h"
#include "cudasim/ptx/warp.h"

namespace cudasim::ptx {

enum Control { kNone, kBranch, kReturn, kBarrier, kTrap };

struct Program {
  std::string mangled, name;  // name: as the g++-compiled kernel's, without namespaces
  std::vector<Step> steps;
  std::vector<std::string> opcodes;  // of each step
  std::vector<Control> control;      // of each step
  size_t param_bytes, static_shared;
  size_t register_bytes;  // of a warp
  // What registers hold before the start: the same constant in all lanes, ..
  struct Constant {
    uint32_t slot;
    int lane_bytes;
    uint64_t value;
  };
  std::vector<Constant> constants;
  // .. the address of a parameter, and what a thread is told of itself: "%tid.x".
  struct Param {
    uint32_t slot;
    size_t at;
  };
  std::vector<Param> params;
  std::vector<std::pair<std::string, uint32_t>> specials;
};

// Throws std::runtime_error for instructions that the simulator does not know, naming them. Addresses of
// `module`'s constants go into the program: it must outlive it.
Program assemble(const Module& module, const Kernel& kernel);

// Sets Step::join of every branch (flow.cc).
void find_joins(Program& program);

}  // namespace cudasim::ptx
