// What the engine and the operators need of a GPU: driver.cc and runtime.cc have it, and cudasim/runtime.cc
// for the CPU.
//
// Functions that return text return nullptr when all went well, else what failed; the text is this thread's
// until its next call.
#pragma once

#include <cstddef>
#include <string>

#include "cuda/common.h"

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

// What kernels may expect of GPUs of that capability, where there is none to ask.
inline DeviceInfo usual_device(int capability) {
  const size_t kilobytes = capability == 80 ? 163 : capability == 90 || capability / 10 == 10 ? 227 : 99;
  return {capability, 1, kilobytes << 10, (kilobytes + 1) << 10};
}

// The context that PyTorch uses on the device, current for the calling thread while this lives.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  const char* error;

 private:
  bool entered_ = false;
};

// A source file and how it is compiled: what one image for a GPU, a cubin, is made of.
struct Program {
  std::string source;   // below csrc/cuda, without .cu
  std::string options;  // for any network
  std::string special;  // beside these, for one network alone: images may do without
};

// Makes the image's kernels known on the device, where they are not; for the life of the process.
const char* load_program(int device, const Program& program, const void* image, size_t bytes);
bool is_loaded(int device, const Program& program);

// A kernel on one device.
struct KernelOnDevice;
using Function = const KernelOnDevice*;
const char* find_kernel(int device, const Program& program, const char* name, Function* function);

struct Grid {
  unsigned x, y, z = 1, threads = kThreads;  // threads: of a block
};

// Starts blocks, with all the shared memory that a block may have, on a stream of the
// device that is current.
const char* launch(Function kernel, const void* params, size_t params_bytes, Grid grid, size_t shared_bytes,
                   void* stream);

// What a thread starts on a stream between these two becomes a graph instead; others may do anything
// meanwhile. Ends also a capture that has failed, which gives no graph.
struct Graph;
const char* begin_capture(int device, void* stream);
const char* end_capture(int device, void* stream, Graph** graph);
// Starts all that a graph has, in order, on a stream of its device.
const char* launch(const Graph* graph, void* stream);
// While it runs, too.
void destroy(Graph* graph);

// Names a buffer that the kernels launched next may touch (nothing to do on a GPU).
void declare(const void* address, size_t bytes, const char* name, bool writable);
void forget_declared();

}  // namespace cuda
}  // namespace seemore
