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

// What the tasks of a parallel() call result in, taken in their order, though they end in any: until then a
// task's result lies in its slot, task modulo `slots`.
struct Turns {
  int slots;
  int64_t* ready;  // [slots], 0 at first: the task whose result lies there, + 1
  int64_t taken = 0;
  int busy = 0;

  // Waits until the slot is free.  Threads begin tasks in order.
  void begin(int64_t task) const { wait_for_more(&taken, task - slots); }

  // Calls take(task) for this one and others whose turn it is, unless another thread is about to.
  template <class Take>
  void done(int64_t task, const Take& take) {
    __atomic_store_n(ready + task % slots, task + 1, __ATOMIC_SEQ_CST);
    while (is_next() && !__atomic_exchange_n(&busy, 1, __ATOMIC_SEQ_CST)) {
      for (; is_next(); __atomic_store_n(&taken, taken + 1, __ATOMIC_SEQ_CST)) take(taken);
      __atomic_store_n(&busy, 0, __ATOMIC_SEQ_CST);  // whose result came since sees this, or is seen above
    }
  }

 private:
  bool is_next() const {
    const int64_t next = __atomic_load_n(&taken, __ATOMIC_SEQ_CST);
    return __atomic_load_n(ready + next % slots, __ATOMIC_SEQ_CST) == next + 1;
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
