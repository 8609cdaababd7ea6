// Finds the CUDA driver's library and its functions.
#include "cuda/driver.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#include <unistd.h>
#endif

namespace seemore {
namespace cuda {
namespace {

constexpr int kLeastVersion = 12000;  // of CUDA, that the driver must support

#ifdef _WIN32

constexpr const char* kNames[] = {"nvcuda.dll"};
void* open_library(const char* name) { return LoadLibraryExA(name, nullptr, LOAD_LIBRARY_SEARCH_SYSTEM32); }
void* symbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
std::string last_error() { return "nvcuda.dll is not there"; }
std::string why_not(const std::string& error) { return "NVIDIA's driver is not installed: " + error; }
std::string hint() { return ""; }

#else

constexpr const char* kNames[] = {"libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"};
void* open_library(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
void* symbol(void* library, const char* name) { return dlsym(library, name); }

std::string last_error() {
  const char* error = dlerror();
  return error ? error : "libcuda.so.1 is not there";
}

bool there(const char* path) { return access(path, F_OK) == 0; }

std::string why_not(const std::string& error) {
  std::string text = "NVIDIA's driver is not installed";
  if (there("/dev/dxg") && !there("/dev/nvidiactl"))
    text = "this is WSL2, and NVIDIA's driver for Windows, which brings libcuda.so.1 here, is not installed";
  else if (there("/dev/nvidiactl"))
    text = "there is a GPU, but the driver does not load (a container must be given it)";
  return text + ": " + error;
}

// What may be behind a driver that finds no device.
std::string hint() {
  if (there("/dev/nvidiactl") && access("/dev/nvidiactl", R_OK | W_OK) != 0)
    return "; this user may not open /dev/nvidiactl";
  if (!there("/dev/nvidiactl") && !there("/dev/dxg")) return "; there is no /dev/nvidiactl";
  return "";
}

#endif

struct Loaded {
  Driver driver = {};
  std::string reason;
};

Loaded load() {
  Loaded found;
  Driver& d = found.driver;
  void* library = nullptr;
  std::string error;
  for (const char* name : kNames) {
    if (!library) library = open_library(name);
    if (!library && error.empty()) error = last_error();
  }
  if (!library) {
    found.reason = why_not(error);
    return found;
  }
  const struct {
    const char* name;
    void** function;
  } wanted[] = {
      {"cuInit", reinterpret_cast<void**>(&d.init)},
      {"cuDriverGetVersion", reinterpret_cast<void**>(&d.version)},
      {"cuDeviceGetCount", reinterpret_cast<void**>(&d.count)},
      {"cuDeviceGet", reinterpret_cast<void**>(&d.device)},
      {"cuDeviceGetAttribute", reinterpret_cast<void**>(&d.attribute)},
      {"cuDevicePrimaryCtxRetain", reinterpret_cast<void**>(&d.retain_primary)},
      {"cuCtxPushCurrent_v2", reinterpret_cast<void**>(&d.push)},
      {"cuCtxPopCurrent_v2", reinterpret_cast<void**>(&d.pop)},
      {"cuModuleLoadDataEx", reinterpret_cast<void**>(&d.load)},
      {"cuModuleGetFunction", reinterpret_cast<void**>(&d.find)},
      {"cuFuncGetAttribute", reinterpret_cast<void**>(&d.function_attribute)},
      {"cuFuncSetAttribute", reinterpret_cast<void**>(&d.set_function_attribute)},
      {"cuLaunchKernel", reinterpret_cast<void**>(&d.launch)},
      {"cuThreadExchangeStreamCaptureMode", reinterpret_cast<void**>(&d.exchange_capture_mode)},
      {"cuStreamBeginCapture_v2", reinterpret_cast<void**>(&d.begin_capture)},
      {"cuStreamEndCapture", reinterpret_cast<void**>(&d.end_capture)},
      {"cuGraphInstantiateWithFlags", reinterpret_cast<void**>(&d.instantiate)},
      {"cuGraphLaunch", reinterpret_cast<void**>(&d.launch_graph)},
      {"cuGraphDestroy", reinterpret_cast<void**>(&d.destroy_graph)},
      {"cuGraphExecDestroy", reinterpret_cast<void**>(&d.destroy_exec)},
      {"cuGetErrorName", reinterpret_cast<void**>(&d.error_name)},
      {"cuGetErrorString", reinterpret_cast<void**>(&d.error_text)},
  };
  for (const auto& function : wanted) {
    *function.function = symbol(library, function.name);
    if (*function.function) continue;
    found.reason = std::string("NVIDIA's driver is too old: it has no ") + function.name;
    return found;
  }
  if (const char* text = d.explain("NVIDIA's driver does not start", d.init(0))) {
    found.reason = text + hint();
    return found;
  }
  int version = 0;
  if (const char* text = d.explain("NVIDIA's driver tells no version", d.version(&version)))
    found.reason = text;
  else if (version < kLeastVersion)
    found.reason = say("NVIDIA's driver is too old: it supports CUDA %d.%d, the kernels need %d.%d",
                       version / 1000, version % 1000 / 10, kLeastVersion / 1000, kLeastVersion % 1000 / 10);
  return found;
}

}  // namespace

const char* say(const char* format, ...) {
  thread_local char text[640];
  char fresh[sizeof text];  // an argument may be the text before
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(fresh, sizeof fresh, format, arguments);
  va_end(arguments);
  return strcpy(text, fresh);
}

const char* Driver::explain(const char* what, Result result) const {
  if (result == 0) return nullptr;
  const char *name = nullptr, *text = nullptr;
  if (error_name(result, &name) != 0 || !name) return say("%s: error %d", what, result);
  error_text(result, &text);
  return say("%s: %s (%s)", what, text ? text : "no text", name);
}

const Driver* driver(const char** reason) {
  static const Loaded found = load();
  *reason = found.reason.empty() ? nullptr : found.reason.c_str();
  return *reason ? nullptr : &found.driver;
}

}  // namespace cuda
}  // namespace seemore
