// Workers are leased: a caller takes as many idle ones as it wants and there are, hands each the job through
// the worker's own `job` slot, works itself as thread 0, and gives them back. No queue, so nothing can
// deadlock.
#include "cpu/isa/pool.h"

#include "cpu/isa/openmp.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace seemore {
namespace {

constexpr int kMaxWorkers = 255;
constexpr int kSpins = 1000;  // pauses before sleeping: 15 us (Zen 4) to 50 us (Skylake)

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits until `flag` differs from `value`: briefly awake, since the next job often follows at once, then
// asleep.
template <class T>
T wait_while(const std::atomic<T>& flag, T value) {
  for (int i = 0; i < kSpins; ++i) {
    const T now = flag.load(std::memory_order_acquire);
    if (now != value) return now;
    pause();
  }
  flag.wait(value, std::memory_order_acquire);
  return flag.load(std::memory_order_acquire);
}

// The same for what another running thread is about to do.
template <class F>
void wait_until(const F& holds) {
  for (int i = 0; !holds(); ++i) {
    if (i < kSpins) {
      pause();
    } else {
      std::this_thread::yield();  // more threads than cores: let the late ones run
    }
  }
}

struct Job {
  void (*fn)(void*, int, int);
  void* ctx;
  int threads;
};

// Never freed: a caller may still be inside notify_one() when the other side has gone on.
struct Worker {
  std::atomic<const Job*> job{nullptr};  // set by the caller, cleared by the worker when done
  int thread = 0;

  void run() {
    for (;;) {
      const Job* mine = wait_while<const Job*>(job, nullptr);
      mine->fn(mine->ctx, thread, mine->threads);
      job.store(nullptr, std::memory_order_release);
      job.notify_one();
    }
  }
};

struct Pool {
  std::mutex mutex;           // guards both below
  std::vector<Worker*> idle;  // the last to have worked, so likely the warmest, is leased first
  int workers = 0;

  // Takes up to `wanted` workers, starting new ones where too few idle exist; returns how many.
  int lease(int wanted, Worker** leased) {
    std::lock_guard<std::mutex> lock(mutex);
    int count = 0;
    while (count < wanted && !idle.empty()) {
      leased[count++] = idle.back();
      idle.pop_back();
    }
    while (count < wanted && workers < kMaxWorkers && start(&leased[count])) ++count, ++workers;
    return count;
  }

  void give_back(int count, Worker** leased) {
    std::lock_guard<std::mutex> lock(mutex);
    while (count-- > 0) idle.push_back(leased[count]);
  }

  static bool start(Worker** worker) {
    Worker* fresh = new Worker;
    try {
      std::thread([fresh] { fresh->run(); }).detach();
    } catch (const std::system_error&) {  // the system allows no more threads: do with those there are
      delete fresh;
      return false;
    }
    *worker = fresh;
    return true;
  }
};

// Never destroyed: detached workers outlive static destructors, and exit waits for nobody.
Pool& pool() {
  static Pool* const instance = [] {
    static Pool* made = new Pool;
#if !defined(_WIN32)
    // fork() copies only the calling thread: hold the lock across it, and let the child start afresh.
    pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); },
                   [] {
                     made->idle.clear();
                     made->workers = 0;
                     made->mutex.unlock();
                   });
#endif
    return made;
  }();
  return *instance;
}

}  // namespace

void parallel(int threads, void (*fn)(void* ctx, int thread, int threads), void* ctx) {
  Worker* leased[kMaxWorkers];
  const int wanted = threads - 1 < kMaxWorkers ? threads - 1 : kMaxWorkers;
  const int count = wanted > 0 ? pool().lease(wanted, leased) : 0;
  const Job job = {fn, ctx, count + 1};
  if (count) end_idle_openmp_threads(count + 1);
  for (int i = 0; i < count; ++i) {
    leased[i]->thread = i + 1;
    leased[i]->job.store(&job, std::memory_order_release);
    leased[i]->job.notify_one();
  }
  fn(ctx, 0, count + 1);
  for (int i = 0; i < count; ++i) {
    while (leased[i]->job.load(std::memory_order_acquire)) wait_while<const Job*>(leased[i]->job, &job);
  }
  if (count) pool().give_back(count, leased);
}

void Barrier::wait(int threads) {
  const int before = __atomic_load_n(&phase, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == threads) {
    __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&phase, before + 1, __ATOMIC_RELEASE);
    return;
  }
  wait_until([&] { return __atomic_load_n(&phase, __ATOMIC_ACQUIRE) != before; });
}

void wait_for_more(const int64_t* count, int64_t than) {
  wait_until([=] { return __atomic_load_n(count, __ATOMIC_ACQUIRE) > than; });
}

}  // namespace seemore
