// Stacks to switch between: what setjmp cannot do and ucontext does with two system calls.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef __x86_64__
#error "cudasim's fibers are written for x86-64"
#endif

namespace cudasim {

// Saves the caller's registers and stack pointer to *from and continues at `to`.
extern "C" void cudasim_switch(void** from, void* to) __attribute__((visibility("hidden")));

// A stack that, switched to for the first time, calls entry(), which must never return.
inline void* prepare_stack(unsigned char* stack, size_t bytes, void (*entry)()) {
  auto top = reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t(15);
  auto* words = reinterpret_cast<uintptr_t*>(top);
  *--words = 0;  // where entry() would return to; also aligns its frame as a call does
  *--words = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--words = 0;  // rbp, rbx, r12 .. r15
  return words;
}

}  // namespace cudasim
