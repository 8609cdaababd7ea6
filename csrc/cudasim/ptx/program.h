// PTX as the simulator keeps it: kernels as lists of instructions, read from text that nvcc or NVRTC made.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace cudasim::ptx {

// One operand as written: %r1, 0f3F800000, symbol, {%r1, %r2}, [%rd1+16], %r1|%p1, !%p1.
struct Operand {
  std::vector<std::string> names;  // of a vector or of both sides of | several
  bool vector = false, address = false, negated = false;
  int64_t offset = 0;  // of an address
};

struct Instruction {
  std::string opcode;  // with all its modifiers
  std::string guard;   // predicate register; "": none
  bool guard_negated = false;
  std::vector<Operand> operands;
  int line;  // of the text
};

// A variable of the module or a parameter of a kernel.
struct Variable {
  size_t at, bytes;
};

struct Kernel {
  std::string name;                        // mangled
  std::map<std::string, int> registers;    // bytes of a lane: 4 or 8; 0: predicate
  std::map<std::string, Variable> params;  // at: from the start of the parameters
  size_t param_bytes = 0;
  std::vector<Instruction> code;
  std::map<std::string, int> labels;  // index into code
  int line;
};

struct Module {
  std::vector<Kernel> kernels;
  std::map<std::string, Variable> shared;  // at: from the start of a block's shared memory
  size_t shared_bytes = 0;                 // of static variables; extern ones begin behind them
  std::map<std::string, std::vector<unsigned char>> constants;  // .global and .const, initialised
};

// Throws std::runtime_error, naming the line, for what it does not understand.
Module parse(const std::string& text);

}  // namespace cudasim::ptx
