// The CUDA driver, looked for when first asked: what of its API the library uses, in declarations of its own.
#pragma once

#include <cstddef>

namespace seemore {
namespace cuda {

#ifdef _WIN32
#define SM_DRIVER_CALL __stdcall
#else
#define SM_DRIVER_CALL
#endif

// Names without CU: as the driver's reference has them.
using Result = int;  // 0: success
using DeviceNumber = int;
using Context = struct ContextOfDriver*;
using Module = struct ModuleOfDriver*;
using DriverFunction = struct FunctionOfDriver*;
using DriverGraph = struct GraphOfDriver*;
using DriverGraphExec = struct GraphExecOfDriver*;  // instantiated

enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kCapabilityMajor = 75,
  kCapabilityMinor = 76,
  kMaxSharedPerMultiprocessor = 81,
  kMaxSharedPerBlockOptin = 97,
};

enum CaptureMode : int { kCaptureOfThread = 1, kCaptureRelaxed = 2 };

enum FunctionAttribute : int { kStaticShared = 1, kMaxDynamicShared = 8 };

struct Driver {
  Result(SM_DRIVER_CALL* init)(unsigned flags);
  Result(SM_DRIVER_CALL* version)(int* version);
  Result(SM_DRIVER_CALL* count)(int* count);
  Result(SM_DRIVER_CALL* device)(DeviceNumber* device, int index);
  Result(SM_DRIVER_CALL* attribute)(int* value, int attribute, DeviceNumber device);
  Result(SM_DRIVER_CALL* retain_primary)(Context* context, DeviceNumber device);
  Result(SM_DRIVER_CALL* push)(Context context);
  Result(SM_DRIVER_CALL* pop)(Context* context);
  Result(SM_DRIVER_CALL* load)(Module* module, const void* image, unsigned count, int* options,
                               void** values);
  Result(SM_DRIVER_CALL* find)(DriverFunction* function, Module module, const char* name);
  Result(SM_DRIVER_CALL* function_attribute)(int* value, int attribute, DriverFunction function);
  Result(SM_DRIVER_CALL* set_function_attribute)(DriverFunction function, int attribute, int value);
  Result(SM_DRIVER_CALL* launch)(DriverFunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                 unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                                 void* stream, void** params, void** extra);
  Result(SM_DRIVER_CALL* exchange_capture_mode)(int* mode);
  Result(SM_DRIVER_CALL* begin_capture)(void* stream, int mode);
  Result(SM_DRIVER_CALL* end_capture)(void* stream, DriverGraph* graph);
  Result(SM_DRIVER_CALL* instantiate)(DriverGraphExec* exec, DriverGraph graph, unsigned long long flags);
  Result(SM_DRIVER_CALL* launch_graph)(DriverGraphExec exec, void* stream);
  Result(SM_DRIVER_CALL* destroy_graph)(DriverGraph graph);
  Result(SM_DRIVER_CALL* destroy_exec)(DriverGraphExec exec);
  Result(SM_DRIVER_CALL* error_name)(Result error, const char** text);
  Result(SM_DRIVER_CALL* error_text)(Result error, const char** text);

  // nullptr for success, else the driver's text, as `what: text (NAME)`.
  const char* explain(const char* what, Result result) const;
};

// The driver, initialised; or nullptr and the reason why there is none that serves.
const Driver* driver(const char** reason);

// Keeps printf-formatted text for this thread until its next call.
#ifdef __GNUC__
__attribute__((format(printf, 1, 2)))
#endif
const char* say(const char* format, ...);

}  // namespace cuda
}  // namespace seemore
