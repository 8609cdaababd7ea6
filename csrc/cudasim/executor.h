// Runs CUDA kernels on the CPU, for tests: one fiber per CUDA thread, one block at a time per worker thread.
//
// What a kernel may use is declared in cuda_on_host.h; docs/testing-without-a-gpu.md says what is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace cudasim {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

struct Launch {
  const char* kernel;  // name for messages
  Dim3 grid, block;
  size_t shared_bytes;   // dynamic shared memory
  void (*body)(void*);   // one thread's work
  void* context;         // handed to body
  size_t context_bytes;  // the kernel's parameters, which it may read
};

// Runs every block, in an order drawn from the seed. Returns "" or what went wrong, naming kernel, block and
// thread; after an error the remaining blocks are not run.
std::string run(const Launch& launch);

// Order of blocks, warps and lanes from now on; whether memory accesses are checked (slower).
void configure(uint64_t seed, bool check);

// Global memory that kernels may touch. `name` appears in messages.
void add_memory(const void* address, size_t bytes, const char* name, bool writable);
void clear_memory();

// ---- For the kernels' side. Their files must not use the STL: its functions would be instrumented, and the
// linker might take those for the simulator itself.

constexpr int kWarp = 32;
constexpr int kExchangeWords = 16;  // 32-bit words that a lane may hand to its warp at once

// Makes a kernel known, by the program that it is part of and its name; true.
bool add_entry(const char* program, const char* name, void (*body)(void*));

// The thread that runs: its indices (x, y, z), and its number in the block.
Dim3 thread_idx() __attribute__((const));
Dim3 block_idx() __attribute__((const));
Dim3 block_dim() __attribute__((const));
Dim3 grid_dim() __attribute__((const));
int lane() __attribute__((const));

// The block's dynamic shared memory: 0xff bytes, which are NaN in every format, until written.
unsigned char* shared() __attribute__((const));

struct Site {
  const char* what;
  const char* file;
  int line;
};

void barrier(Site site);       // __syncthreads
void warp_barrier(Site site);  // __syncwarp

// Hands `count` words to the warp, waits for all its lanes, and returns the words of all: [lane][count], or
// what `combine`, called once, makes of them, of at most kExchangeWords - count words to a lane. Valid until
// this lane's next exchange.
using Combine = void (*)(const uint32_t* all, uint32_t* made);
const uint32_t* exchange(Site site, const uint32_t* words, int count, Combine combine = nullptr);

// What `value` is in lane `source`; one bit of each lane. The mask must be full.
float shuffle(Site site, unsigned mask, float value, int source);
unsigned ballot(Site site, unsigned mask, bool bit);

// Checks an access of the running thread, as the compiler's instrumentation does for ordinary ones.
void on_access(const void* address, size_t bytes, bool write);

// Ends the run with this message.
void fail(const std::string& message);

}  // namespace cudasim
