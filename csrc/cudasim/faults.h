// Small kernels that the tests hand to the simulator: with planted faults, or about single instructions.
#pragma once

namespace cudasim {

struct Fault {
  const char* name;
  unsigned blocks;  // of fault_memory().count threads, with a float of shared memory each
  void (*body)(void*);
};

extern const Fault kFaults[];
extern const int kFaultCount;

struct FaultMemory {
  float *in, *out;  // [count]; [2 count], where a kernel puts NaN if its results are wrong
  int count;
};

FaultMemory fault_memory();

}  // namespace cudasim
