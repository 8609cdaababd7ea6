// OpenMP 5.0's omp_pause_resource() of whichever runtime the process has, GNU's as a rule.
//
// On Linux only: elsewhere PyTorch comes with LLVM's or Intel's runtime, with which nobody has tried this.
#include "cpu/isa/openmp.h"

#if defined(__linux__)
#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#endif

namespace seemore {

#if defined(__linux__)
namespace {

// fork() copies what GNU's runtime knows of its threads, but not the threads: it would wait for them for
// ever.
bool is_copy_of_another() {
  constexpr unsigned kForkedNoExec = 0x40;  // Linux's PF_FORKNOEXEC
  char line[512] = "";
  if (FILE* const file = std::fopen("/proc/self/stat", "re")) {
    line[std::fread(line, 1, sizeof line - 1, file)] = 0;
    std::fclose(file);
  }
  unsigned flags = 0;  // what a real process has some of
  const char* const behind_name = std::strrchr(line, ')');
  if (!behind_name || std::sscanf(behind_name, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1) return true;
  return !flags || (flags & kForkedNoExec);
}

bool threads_are_real() {
  static const pid_t original = is_copy_of_another() ? 0 : getpid();
  return getpid() == original;
}

bool have_room_for(int threads) {
  cpu_set_t usable;
  return sched_getaffinity(0, sizeof usable, &usable) == 0 && CPU_COUNT(&usable) >= threads;
}

template <class F>
F* find(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_DEFAULT, name));
}

}  // namespace

void end_idle_openmp_threads(int threads) {
  constexpr int kSoft = 1;
  static const auto pause = find<int(int kind, int device)>("omp_pause_resource");
  static const auto host = find<int()>("omp_get_initial_device");
  if (pause && host && !have_room_for(2 * threads - 1) && threads_are_real()) pause(kSoft, host());
}
#else
void end_idle_openmp_threads(int) {}
#endif

}  // namespace seemore
