// Stress of the thread pool, for the thread sanitizer and for fork(); run by tests/house/test_build.py.
// Exits 0 if every parallel() call ran each share of the work exactly once, barriers held, and turns.
#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu/isa/tasks.h"

namespace {

constexpr int kPhases = 5;

#define EXPECT(condition)                                          \
  do {                                                             \
    if (!(condition)) {                                            \
      std::fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
      std::_Exit(1);                                               \
    }                                                              \
  } while (0)

struct Work {
  seemore::Barrier barrier{};
  int written[64] = {};  // plain memory: the barrier alone must order it
  std::atomic<int> calls{0};
};

// Each phase, a thread checks its neighbour's value of the last one.
void phases(void* ctx, int thread, int threads) {
  Work& work = *static_cast<Work*>(ctx);
  EXPECT(thread >= 0 && thread < threads && threads <= 64);
  for (int phase = 1; phase <= kPhases; ++phase) {
    work.written[thread] = phase;
    work.barrier.wait(threads);
    EXPECT(work.written[(thread + 1) % threads] == phase);
    work.barrier.wait(threads);
  }
  ++work.calls;
}

void run(int threads) {
  Work work;
  seemore::parallel(threads, phases, &work);
  const int calls = work.calls;
  EXPECT(calls >= 1 && calls <= threads);
  for (int i = 0; i < 64; ++i) EXPECT(work.written[i] == (i < calls ? kPhases : 0));
}

void nested(void*, int, int) { run(2); }

// Tasks of unlike length, more than slots: each result is taken once, in order, before its slot serves again.
void take_turns(int threads, int slots) {
  constexpr int kTasks = 60;
  struct Shared {
    seemore::stress::Tasks tasks;
    seemore::stress::Turns turns;
    int64_t results[8] = {};  // plain memory: turns alone must order it
    int64_t taken[kTasks] = {};
    int count = 0;
  };
  int64_t ready[8] = {};
  Shared all = {{kTasks}, {slots, ready}};
  seemore::parallel(
      threads,
      [](void* ctx, int, int) {
        Shared& s = *static_cast<Shared*>(ctx);
        s.tasks.run([&](int64_t task) {
          s.turns.begin(task);
          for (int i = 0; i < task % 5; ++i) std::this_thread::yield();
          s.results[task % s.turns.slots] = task * task;
          s.turns.done(task, [&](int64_t next) { s.taken[s.count++] = s.results[next % s.turns.slots]; });
        });
      },
      &all);
  EXPECT(all.count == kTasks);
  for (int64_t i = 0; i < kTasks; ++i) EXPECT(all.taken[i] == i * i);
}

}  // namespace

int main(int argc, char**) {
  for (int i = 0; i < 200; ++i) run(1 + i % 5);
  for (int i = 0; i < 40; ++i) take_turns(1 + i % 5, 1 + i % 8);

  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i)
    callers.emplace_back([] {
      for (int j = 0; j < 50; ++j) run(3);
    });
  for (std::thread& caller : callers) caller.join();

  seemore::parallel(3, nested, nullptr);

  if (argc > 1) return 0;  // the thread sanitizer does not follow fork() of a process with threads
#if !defined(_WIN32)
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 20; ++i) run(4);
    std::exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  run(4);
#endif
  return 0;
}
