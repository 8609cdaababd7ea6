// Compiled kernels on the CPU: those of loaded PTX run instead of what g++ made of the same sources.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cudasim/executor.h"
#include "cudasim/ptx/block.h"

namespace cudasim::ptx {

struct Program;

// Kernels of a PTX text, beside those loaded before: by their names, with "program " before them unless that
// is empty (Program in cuda/runtime.h: source and options). Throws std::runtime_error for text or
// instructions that the simulator does not know.
void load(const std::string& text, const std::string& program);
void unload_all();

// Whether they run instead of g++'s: so after load().
void use(bool ptx);
bool used();

// ask(name) may load() the text that has a kernel which find() misses.
void when_missing(std::function<void(const std::string&)> ask);

// By mangled or readable name; nullptr: there is none. Valid until unload_all(). Throws what load() and
// asking throw.
const Program* find(const std::string& name);

// Runs a kernel as cudasim::run does.
std::string run(const Program& kernel, Dim3 grid, Dim3 block, size_t shared_bytes, const void* params,
                size_t param_bytes);

// What launches did since measuring began, one entry a launch.
struct Line {
  int line;  // of the PTX text
  std::string opcode;
  Count count;  // of all blocks, as those that were run stand for them
};
struct Measured {
  std::string kernel, mangled;
  Dim3 grid;
  uint32_t threads;  // of a block
  size_t shared_bytes;
  uint32_t blocks_run;
  std::vector<Line> lines;
};

// From now on count, and run about so many blocks of a launch (sample.h); 0: stop.
void measure(uint32_t most_blocks);
const std::vector<Measured>& measured();

}  // namespace cudasim::ptx
