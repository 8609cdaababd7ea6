// Stress of the thread pool, for the thread sanitizer and for fork(); run by tests/house/test_build.py.
// Exits 0 if every parallel() call ran each share of the work exactly once, and barriers held.
#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu/isa/pool.h"

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

}  // namespace

int main(int argc, char**) {
  for (int i = 0; i < 200; ++i) run(1 + i % 5);

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
