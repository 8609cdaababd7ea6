// What the op kernels share beside vectors: division of work into tasks, and scratch memory.
#pragma once

#include "cpu/isa/memory.h"
#include "cpu/isa/pool.h"
#include "cpu/isa/simd.h"

namespace seemore {
namespace SM_ISA {

// Pixels of one image that one task takes, where tasks are ranges of pixels: enough to be worth a thread.
constexpr int64_t kTaskPixels = 4096;

SM_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SM_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// No more threads than tasks.
SM_INLINE int useful_threads(int threads, int64_t tasks) { return tasks < threads ? (int)tasks : threads; }

// Tasks 0 .. tasks - 1 for the threads of a parallel() call: each takes the next one when it is done, so that
// a thread whose core has other work to do, of PyTorch's threads say, gets fewer.
struct Tasks {
  int64_t tasks = 0, next = 0;

  template <class F>
  SM_INLINE void run(const F& f) {
    for (;;) {
      const int64_t task = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
      if (task >= tasks) return;
      f(task);
    }
  }
};

// Calls f(task, thread) for task = 0 .. tasks - 1, on up to `threads` threads. Tasks must not depend on the
// number of threads, nor on their order: then neither does the result, in any bit.
template <class F>
void run_tasks(int threads, int64_t tasks, const F& f) {
  struct Context {
    Tasks tasks;
    const F* f;
  } context = {{tasks}, &f};
  parallel(
      useful_threads(threads, tasks),
      [](void* ctx, int thread, int) {
        Context& c = *static_cast<Context*>(ctx);
        c.tasks.run([&](int64_t task) { (*c.f)(task, thread); });
      },
      &context);
}

// Uninitialised memory, freed with the scope; test it for null. `count` may be 0.
template <class T>
struct Scratch {
  T* const data;

  explicit Scratch(int64_t count) : data(static_cast<T*>(allocate(sizeof(T) * count))) {}
  ~Scratch() { release(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

}  // namespace SM_ISA
}  // namespace seemore
