// cuda/runtime.h on the CPU: the device is a pretended one with its own figures, its kernels are those that
// g++ has compiled.
#include "cuda/runtime.h"

#include <exception>
#include <map>
#include <string>
#include <utility>

#include "cudasim/device.h"
#include "cudasim/executor.h"
#include "cudasim/ptx/run.h"

namespace seemore {
namespace cuda {

struct KernelOnDevice {
  std::string name;
  void (*body)(void*);
};

namespace {

DeviceInfo pretended = {90, 4, 227 << 10, 228 << 10};

using Entries = std::map<std::pair<std::string, std::string>, KernelOnDevice>;
Entries& entries() {
  static Entries known;
  return known;
}

}  // namespace

const char* count_devices(int* count) {
  *count = 1;
  return nullptr;
}

const char* describe_device(int device, DeviceInfo* info) {
  *info = pretended;
  return device == 0 ? nullptr : "invalid device ordinal";
}

OnDevice::OnDevice(int device) : error(device == 0 ? nullptr : "invalid device ordinal") {}
OnDevice::~OnDevice() {}

// Kernels are there from the beginning, for any network.
const char* load_program(int, const Program&, const void*, size_t) { return nullptr; }
bool is_loaded(int, const Program&) { return true; }

const char* find_kernel(int, const Program& program, const char* name, Function* function) {
  const std::string whole = program.source + " " + program.options;
  const KernelOnDevice& found =
      entries().try_emplace({whole, name}, KernelOnDevice{whole + " " + name, nullptr}).first->second;
  thread_local std::string error;
  error = "the simulator has no kernel " + found.name;
  if (!found.body && !cudasim::ptx::used()) return error.c_str();
  *function = &found;
  return nullptr;
}

const char* launch(Function kernel, const void* params, size_t params_bytes, Grid grid, size_t shared_bytes,
                   void*) {
  thread_local std::string error;
  if (cudasim::ptx::used()) {
    const cudasim::ptx::Program* compiled = nullptr;
    try {
      compiled = cudasim::ptx::find(kernel->name);
    } catch (const std::exception& failed) {
      error = kernel->name + ": " + failed.what();
      return error.c_str();
    }
    error = !compiled ? kernel->name + " is in none of the loaded PTX texts"
                      : cudasim::ptx::run(*compiled, {grid.x, grid.y, grid.z}, {grid.threads, 1, 1},
                                          shared_bytes, params, params_bytes);
    return error.empty() ? nullptr : error.c_str();
  }
  if (!kernel->body) {
    error = "the simulator has no kernel " + kernel->name;
    return error.c_str();
  }
  error = cudasim::run({kernel->name.c_str(),
                        {grid.x, grid.y, grid.z},
                        {grid.threads, 1, 1},
                        shared_bytes,
                        kernel->body,
                        const_cast<void*>(params),
                        params_bytes});
  return error.empty() ? nullptr : error.c_str();
}

// Tests keep launches themselves (tests/support/cudasim.py).
const char* begin_capture(int, void*) { return "the simulator captures no graphs"; }
const char* end_capture(int, void*, Graph**) { return "the simulator captures no graphs"; }
const char* launch(const Graph*, void*) { return "the simulator captures no graphs"; }
void destroy(Graph*) {}

void declare(const void* address, size_t bytes, const char* name, bool writable) {
  cudasim::add_memory(address, bytes, name, writable);
}

void forget_declared() { cudasim::clear_memory(); }

}  // namespace cuda
}  // namespace seemore

namespace cudasim {

void pretend(const seemore::cuda::DeviceInfo& device) { seemore::cuda::pretended = device; }

bool add_entry(const char* program, const char* name, void (*body)(void*)) {
  return seemore::cuda::entries().insert({{program, name}, {std::string(program) + " " + name, body}}).second;
}

}  // namespace cudasim
