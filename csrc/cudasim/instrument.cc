// Kernels are compiled with g++ -fsanitize=thread, which calls these before every access to memory. Only the
// instrumentation is used: ThreadSanitizer's own library is not linked.
#include "cudasim/settings.h"
#include "cudasim/worker.h"

namespace cudasim {
namespace {

[[gnu::cold, gnu::noinline]] void misaligned(size_t bytes, bool write) {
  fail((write ? "misaligned write of " : "misaligned read of ") + std::to_string(bytes) + " bytes");
}

// Looks at an access of the running thread. Inlined for each size: most of a checked run's time is here.
[[gnu::always_inline]] inline void look(const void* address, size_t bytes, bool write, bool aligned) {
  Worker* const worker = self;
  if (!worker || !worker->checks) return;
  const auto at = reinterpret_cast<uintptr_t>(address);
  if (aligned && at % bytes) return misaligned(bytes, write);
  if (at - reinterpret_cast<uintptr_t>(worker->stacks) < kStack * kMostThreads) return;
  const std::string* wrong;
  if (at - reinterpret_cast<uintptr_t>(worker->shared_room) < kSharedRoom) {
    const int warp = worker->running / kWarp;
    wrong = worker->shadow.access(at - reinterpret_cast<uintptr_t>(worker->shared_memory), bytes, write,
                                  {worker->running, warp, worker->epoch, worker->warps[warp].epoch});
  } else {
    const auto parameters = reinterpret_cast<uintptr_t>(worker->launch->context);
    if (at - parameters < worker->launch->context_bytes && !write) return;
    wrong = global_memory().access(at, bytes, write, worker->block_number);
  }
  if (wrong) fail(*wrong);
}

}  // namespace

void on_access(const void* address, size_t bytes, bool write) { look(address, bytes, write, false); }

}  // namespace cudasim

// An access of a type is to be aligned to its size, as GPUs ask for; `unaligned` ones are of pieces that the
// compiler knows not to be, which nvcc takes apart.
#define SM_ACCESS(bytes)                                                              \
  void __tsan_read##bytes(void* p) { cudasim::look(p, bytes, false, true); }          \
  void __tsan_write##bytes(void* p) { cudasim::look(p, bytes, true, true); }          \
  void __tsan_unaligned_read##bytes(void* p) { cudasim::on_access(p, bytes, false); } \
  void __tsan_unaligned_write##bytes(void* p) { cudasim::on_access(p, bytes, true); }

extern "C" {
SM_ACCESS(1)
SM_ACCESS(2)
SM_ACCESS(4)
SM_ACCESS(8)
SM_ACCESS(16)
void __tsan_read_range(void* p, size_t bytes) { cudasim::on_access(p, bytes, false); }
void __tsan_write_range(void* p, size_t bytes) { cudasim::on_access(p, bytes, true); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
