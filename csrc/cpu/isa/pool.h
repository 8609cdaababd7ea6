// The library's thread pool, and how threads of one parallel() call wait for each other.
//
// No OpenMP: torch brings its own, and two OpenMP runtimes in one process fight over the cores.  That one's
// idle threads are told to end first (openmp.h).
// Per-ISA files include this, so it holds declarations only.
#pragma once

#include <stdint.h>

namespace seemore {

// Runs fn(ctx, thread, threads) on up to `threads` threads at once, thread = 0 (the caller) .. threads - 1,
// and returns when all have. `threads` may come out smaller than asked for, down to 1, where workers are busy
// with other callers' work: fn must divide the work by the number it receives. All of them really run at the
// same time, so fn may use a Barrier. Safe from any thread, inside fn, and after fork().
void parallel(int threads, void (*fn)(void* ctx, int thread, int threads), void* ctx);

// All `threads` threads of a parallel() call wait for each other. Starts as Barrier{}; reusable at once.
struct Barrier {
  int arrived = 0;
  int phase = 0;

  void wait(int threads);
};

// Waits until a running thread has made *count more than that.
void wait_for_more(const int64_t* count, int64_t than);

}  // namespace seemore
