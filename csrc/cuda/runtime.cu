// runtime.h on a GPU. The CUDA runtime is linked statically and finds the driver when first used, so that the
// module loads without one.
#include <cuda_runtime.h>

#include "cuda/runtime.h"

namespace seemore {
namespace cuda {

const char* explain(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

const char* count_devices(int* count) { return explain(cudaGetDeviceCount(count)); }

const char* describe_device(int device, DeviceInfo* info) {
  int major = 0, minor = 0, limit = 0, total = 0;
  const struct {
    int* value;
    cudaDeviceAttr name;
  } wanted[] = {{&major, cudaDevAttrComputeCapabilityMajor},
                {&minor, cudaDevAttrComputeCapabilityMinor},
                {&info->multiprocessors, cudaDevAttrMultiProcessorCount},
                {&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin},
                {&total, cudaDevAttrMaxSharedMemoryPerMultiprocessor}};
  for (const auto& attribute : wanted)
    if (const char* error = explain(cudaDeviceGetAttribute(attribute.value, attribute.name, device)))
      return error;
  info->capability = 10 * major + minor;
  info->shared_limit = limit;
  info->shared_per_processor = total;
  if (info->capability < 80) return "the kernels need compute capability 8.0 or higher";
  return nullptr;
}

const char* use_device(int device, int* previous) {
  if (const char* error = explain(cudaGetDevice(previous))) return error;
  return *previous == device ? nullptr : explain(cudaSetDevice(device));
}

const char* allocate(void** address, size_t bytes) { return explain(cudaMalloc(address, bytes)); }
const char* upload(void* to, const void* from, size_t bytes) {
  if (const char* error = explain(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice))) return error;
  // From pageable memory the call may return before the copy has arrived, and PyTorch's streams do not wait
  // for the default one.
  return explain(cudaStreamSynchronize(cudaStreamLegacy));
}
void release(void* address) { cudaFree(address); }

void declare(const void*, size_t, const char*, bool) {}
void forget_declared() {}

}  // namespace cuda
}  // namespace seemore
