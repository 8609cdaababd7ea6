// What the engine needs of the CUDA runtime: runtime.cu has it, and cudasim/runtime.cc for the CPU.
//
// Functions that return text return nullptr when all went well, else what failed.
#pragma once

#include <cstddef>

namespace seemore {
namespace cuda {

struct DeviceInfo {
  int capability;  // 10 major + minor
  int multiprocessors;
  size_t shared_limit;  // bytes of dynamic shared memory that one block may ask for
  size_t shared_per_processor;
};

const char* count_devices(int* count);
const char* describe_device(int device, DeviceInfo* info);

// Makes `device` current for the calling thread; *previous: the one before.
const char* use_device(int device, int* previous);

// The thread's device, back as it was at the end.
struct OnDevice {
  int before = -1;
  const char* error;
  explicit OnDevice(int device) : error(use_device(device, &before)) {}
  ~OnDevice() {
    int ours;
    if (!error) use_device(before, &ours);
  }
};

const char* allocate(void** address, size_t bytes);
const char* upload(void* to, const void* from, size_t bytes);
void release(void* address);

// Names a buffer that the kernels launched next may touch (nothing to do on a GPU).
void declare(const void* address, size_t bytes, const char* name, bool writable);
void forget_declared();

}  // namespace cuda
}  // namespace seemore
