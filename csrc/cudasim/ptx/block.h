// A block of warps as its instructions see it: memory, what is checked of it, and what is counted.
#pragma once

#include <string>
#include <vector>

#include "cudasim/memory.h"
#include "cudasim/ptx/warp.h"

namespace cudasim::ptx {

// What one step did.
struct Count {
  double issued = 0;      // times that a warp executed it
  double lanes = 0;       // that took part, in all
  double wavefronts = 0;  // passes of shared memory, or lines of 128 bytes of global memory
  double ideal = 0;       // passes that as many bytes would need without bank conflicts
  double sectors = 0;     // of 32 bytes, of global memory
  void add(const Count& other, double times);
};

struct Block {
  GlobalMemory* memory;
  SharedShadow shadow;
  unsigned char* shared;  // as many bytes as the launch asks for, and room behind them
  size_t shared_bytes;
  uint32_t number = 0, epoch = 1;  // of the block in its grid; of barriers
  bool check, measure;             // every access; wavefronts and sectors
  const unsigned char* params;
  size_t param_bytes;
  std::vector<Count> counts;  // of each step

  // Where an access of one lane goes, after checking it; address as the lane gives it.
  unsigned char* shared_at(const Warp& w, int lane, uint64_t address, size_t bytes, bool write);
  unsigned char* global_at(const Warp& w, int lane, uint64_t address, size_t bytes, bool write);
  const unsigned char* param_at(const Warp& w, int lane, uint64_t address, size_t bytes) const;
  // Whether a generic address lies in shared memory.
  bool is_shared(uint64_t address) const;

  // One access of a warp, each lane of the mask to `bytes` at its address.
  void count_shared(int step, uint32_t mask, const uint64_t (&address)[kLanes], int bytes);
  void count_global(int step, uint32_t mask, const uint64_t (&address)[kLanes], int bytes);
  int count_sectors(int step, uint32_t mask, const uint64_t (&address)[kLanes], int bytes);
};

}  // namespace cudasim::ptx
