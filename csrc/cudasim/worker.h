// What runs blocks: fibers, the warps that they form, and what they share.
#pragma once

#include <sys/mman.h>

#include <new>
#include <random>
#include <string>
#include <vector>

#include "cudasim/executor.h"
#include "cudasim/fiber.h"
#include "cudasim/memory.h"

namespace cudasim {

constexpr size_t kStack = 128 << 10;
constexpr int kMostThreads = 1024;
constexpr size_t kSharedRoom = 1 << 20;  // all of it counts as shared memory, so that strays are seen

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Fiber {
  Dim3 index;  // of its thread
  void* stack_pointer;
  State state;
  Site site;      // where it waits
  uint32_t slot;  // parity of its exchanges
};

struct Warp {
  int arrived = 0;
  Site site = {};
  uint32_t epoch = 0;
  uint32_t words[2][kWarp * kExchangeWords];
};

// One operating-system thread's means to run blocks.
struct Worker {
  const Launch* launch = nullptr;
  int threads = 0;
  bool checks = false;  // accesses to memory
  Dim3 block;
  uint32_t block_number = 0;
  int running = -1;    // thread of the block, -1: the worker itself
  int done = 0;        // threads that have ended
  int first = 0;       // thread of the warp that runs
  int position = 0;    // in lane_order, of its next lane
  bool again = false;  // some lane has run since position was 0
  int at_barrier = 0;
  Site barrier_site = {};
  uint32_t epoch = 1;
  void* stack_pointer = nullptr;
  unsigned char *stacks, *shared_room, *shared_memory;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<int> lane_order = std::vector<int>(kWarp);
  SharedShadow shadow;
  std::string error;

  Worker()
      : stacks(map(kStack * kMostThreads)),
        shared_room(map(kSharedRoom)),
        shared_memory(shared_room + kSharedRoom / 2) {}
  ~Worker() {
    munmap(stacks, kStack * kMostThreads);
    munmap(shared_room, kSharedRoom);
  }
  Worker(const Worker&) = delete;

  static unsigned char* map(size_t bytes) {
    void* memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return static_cast<unsigned char*>(memory);
  }

  std::string where() const;  // kernel, block, thread
  std::string who_waits() const;
  void run_block(Dim3 at, uint32_t number, std::mt19937_64& random);

  Dim3 index(int thread) const {
    const Dim3& d = launch->block;
    return {thread % d.x, thread / d.x % d.y, thread / d.x / d.y};
  }

  // The warp's next thread that is ready; -1: there is none.
  int next() {
    for (;; position = 0, again = false) {
      while (position < kWarp) {
        const int thread = first + lane_order[position++];
        if (thread < threads && fibers[thread].state == State::kReady) {
          again = true;
          return thread;
        }
      }
      if (!again) return -1;
    }
  }

  // On with the warp's next thread, or back to run_block(), until the fiber is ready again. From thread to
  // thread, the processor foretells where returns lead to: they wait in the same functions.
  void wait(State state, const Site& site) {
    Fiber& fiber = fibers[running];
    fiber.state = state;
    fiber.site = site;
    running = next();
    cudasim_switch(&fiber.stack_pointer, running < 0 ? stack_pointer : fibers[running].stack_pointer);
  }
};

// The one whose fibers run in this thread. At a fixed distance from the thread's pointer: every access of a
// kernel to memory asks for it.
extern __attribute__((tls_model("initial-exec"), visibility("hidden"))) thread_local Worker* self;

}  // namespace cudasim
