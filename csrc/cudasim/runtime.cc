// cuda/runtime.h and the launcher of cuda/launch.h on the CPU: the device is a pretended one with its own
// figures.
#include "cuda/runtime.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda/launch.h"
#include "cudasim/device.h"
#include "cudasim/executor.h"
#include "cudasim/ptx/run.h"

namespace cudasim {
namespace {
seemore::cuda::DeviceInfo pretended = {90, 4, 227 << 10, 228 << 10};
}
void pretend(const seemore::cuda::DeviceInfo& device) { pretended = device; }
}  // namespace cudasim

namespace seemore {
namespace cuda {

const char* count_devices(int* count) {
  *count = 1;
  return nullptr;
}

const char* describe_device(int device, DeviceInfo* info) {
  *info = cudasim::pretended;
  return device == 0 ? nullptr : "invalid device ordinal";
}

const char* use_device(int, int* previous) {
  *previous = 0;
  return nullptr;
}

const char* allocate(void** address, size_t bytes) {
  *address = aligned_alloc(256, bytes);
  return *address ? nullptr : "out of memory";
}

const char* upload(void* to, const void* from, size_t bytes) {
  memcpy(to, from, bytes);
  return nullptr;
}

void release(void* address) { free(address); }

void declare(const void* address, size_t bytes, const char* name, bool writable) {
  cudasim::add_memory(address, bytes, name, writable);
}

void forget_declared() { cudasim::clear_memory(); }

const char* start_on_host(const char* signature, void (*body)(void*), void* context, size_t context_bytes,
                          Grid grid, size_t shared_bytes) {
  // "... [with auto kernel = NAME; Params = ..]"
  std::string name = signature;
  const size_t at = name.find("kernel = ");
  if (at != std::string::npos) name = name.substr(at + 9, name.find(';', at) - at - 9);
  thread_local std::string error;
  if (cudasim::ptx::any_loaded()) {
    error =
        cudasim::ptx::run(name, {grid.x, grid.y, 1}, {kThreads, 1, 1}, shared_bytes, context, context_bytes);
    return error.empty() ? nullptr : error.c_str();
  }
  error = cudasim::run(
      {name.c_str(), {grid.x, grid.y, 1}, {kThreads, 1, 1}, shared_bytes, body, context, context_bytes});
  return error.empty() ? nullptr : error.c_str();
}

}  // namespace cuda
}  // namespace seemore
