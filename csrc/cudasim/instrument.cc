// Kernels are compiled with g++ -fsanitize=thread, which calls these before every access to memory. Only the
// instrumentation is used: ThreadSanitizer's own library is not linked.
#include "cudasim/executor.h"

// An access of a type is to be aligned to its size, as GPUs ask for; `unaligned` ones are of pieces that the
// compiler knows not to be, which nvcc takes apart.
#define SM_ACCESS(bytes)                                                              \
  void __tsan_read##bytes(void* p) { cudasim::on_aligned_access(p, bytes, false); }   \
  void __tsan_write##bytes(void* p) { cudasim::on_aligned_access(p, bytes, true); }   \
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
