// Aligned memory from the platform.  The last block released is kept, up to 64 MiB: operators of a training
// step ask for about as much again, and pages that the system gives anew cost more than the work on them.
#include "cpu/isa/memory.h"

#include <stdint.h>

#include <atomic>
#include <cstdlib>

#if defined(_WIN32)
#include <malloc.h>
#endif

namespace {

constexpr size_t kLine = 64;

// What watches over memory is to see each block come and go.
size_t largest_kept() {
#if defined(__SANITIZE_ADDRESS__)
  return 0;
#else
  static const size_t bytes = std::getenv("MALLOC_PERTURB_") ? 0 : size_t{64} << 20;
  return bytes;
#endif
}

struct alignas(kLine) Block {
  size_t bytes;  // that follow
};

std::atomic<Block*> kept{nullptr};

#if defined(_WIN32)
void* from_system(size_t bytes) { return _aligned_malloc(bytes, kLine); }
void to_system(void* memory) { _aligned_free(memory); }
#else
void* from_system(size_t bytes) { return std::aligned_alloc(kLine, bytes); }
void to_system(void* memory) { std::free(memory); }
#endif

}  // namespace

void* seemore::allocate(size_t bytes) {
  Block* block = kept.exchange(nullptr);
  if (!block || block->bytes < bytes) {
    to_system(block);
    if (bytes > SIZE_MAX - 2 * kLine) return nullptr;
    const size_t whole = (bytes + kLine - 1) / kLine * kLine;
    block = static_cast<Block*>(from_system(sizeof(Block) + whole));
    if (!block) return nullptr;
    block->bytes = whole;
  }
  return block + 1;
}

void seemore::release(void* memory) {
  if (!memory) return;
  Block* block = static_cast<Block*>(memory) - 1;
  to_system(block->bytes <= largest_kept() ? kept.exchange(block) : block);
}
