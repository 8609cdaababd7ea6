// What microbench.cc exports for each ISA.  Declarations only, as in dispatch.h.
#pragma once

namespace seemore {
namespace engine {

// Rows of `width` columns and `channels` channels; every one of `threads` threads has its own.
struct MicrobenchSize {
  int channels, width, repeats, threads;
};

struct MicrobenchTable {
  // Name of the i-th kernel; null past the last.
  const char* (*name)(int i);
  // Runs the kernel `repeats` times on every thread; `operations` becomes their number.  False: out of
  // memory.
  bool (*run)(int kernel, const MicrobenchSize& size, double* operations);
};

}  // namespace engine
}  // namespace seemore
