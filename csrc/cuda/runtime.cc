// runtime.h on a GPU, by the driver's API, in the primary contexts that PyTorch computes in.
#include "cuda/runtime.h"

#include <map>
#include <mutex>
#include <utility>

#include "cuda/driver.h"

namespace seemore {
namespace cuda {

struct KernelOnDevice {
  DriverFunction function;
  std::string name;
};

namespace {

#define SM_TRY(what, call) \
  if (const char* failed = api->explain(what, api->call)) return failed

// Modules and kernels by device, for the life of the process: to unload one would wait for the GPU.
struct Loaded {
  Module module;
  std::map<std::string, KernelOnDevice> kernels;
};

std::mutex lock;  // of both
std::map<std::pair<int, std::string>, Loaded> programs;
std::map<int, Context> contexts;

std::string key_of(const Program& program) {
  return program.source + " " + program.options + " " + program.special;
}

// Loading a module allocates, which a capture anywhere in the process would forbid but for this.
struct WhateverIsCaptured {
  const Driver* api;
  int mode = kCaptureRelaxed;
  explicit WhateverIsCaptured(const Driver* driver) : api(driver) { api->exchange_capture_mode(&mode); }
  ~WhateverIsCaptured() { api->exchange_capture_mode(&mode); }
};

// Finds the kernel by its name, and lets it have all the shared memory that there is.
const char* prepare(int device, Module module, KernelOnDevice* kernel) {
  DeviceInfo info = {};
  if (const char* error = describe_device(device, &info)) return error;
  const char* reason;
  const Driver* api = driver(&reason);
  const std::string what = "finding the kernel " + kernel->name;
  int fixed = 0;
  SM_TRY(what.c_str(), find(&kernel->function, module, kernel->name.c_str()));
  SM_TRY(what.c_str(), function_attribute(&fixed, kStaticShared, kernel->function));
  SM_TRY(what.c_str(),
         set_function_attribute(kernel->function, kMaxDynamicShared, (int)info.shared_limit - fixed));
  return nullptr;
}

}  // namespace

const char* count_devices(int* count) {
  const char* reason;
  const Driver* api = driver(&reason);
  if (!api) return reason;
  SM_TRY("counting GPUs", count(count));
  return nullptr;
}

const char* describe_device(int index, DeviceInfo* info) {
  const char* reason;
  const Driver* api = driver(&reason);
  if (!api) return reason;
  int major = 0, minor = 0, limit = 0, total = 0;
  const struct {
    int* value;
    DeviceAttribute name;
  } wanted[] = {{&major, kCapabilityMajor},
                {&minor, kCapabilityMinor},
                {&info->multiprocessors, kMultiprocessorCount},
                {&limit, kMaxSharedPerBlockOptin},
                {&total, kMaxSharedPerMultiprocessor}};
  DeviceNumber number = 0;
  SM_TRY("finding the GPU", device(&number, index));
  for (const auto& figure : wanted)
    SM_TRY("describing the GPU", attribute(figure.value, figure.name, number));
  info->capability = 10 * major + minor;
  info->shared_limit = limit;
  info->shared_per_processor = total;
  if (info->capability < 80)
    return say("the kernels need compute capability 8.0 or higher, this GPU has %d.%d", major, minor);
  return nullptr;
}

OnDevice::OnDevice(int device) {
  const Driver* api = driver(&error);
  if (!api) return;
  Context context = nullptr;
  {
    const std::lock_guard<std::mutex> guard(lock);
    Context& known = contexts[device];
    DeviceNumber number = 0;
    if (!known) error = api->explain("finding the GPU", api->device(&number, device));
    if (!known && !error) error = api->explain("using the GPU", api->retain_primary(&known, number));
    if (error) known = nullptr;
    context = known;
  }
  if (error) return;
  error = api->explain("using the GPU", api->push(context));
  entered_ = !error;
}

OnDevice::~OnDevice() {
  const char* reason;
  Context context;
  if (entered_) driver(&reason)->pop(&context);
}

bool is_loaded(int device, const Program& program) {
  const std::lock_guard<std::mutex> guard(lock);
  return programs.count({device, key_of(program)}) > 0;
}

const char* load_program(int device, const Program& program, const void* image, size_t) {
  const OnDevice on(device);
  if (on.error) return on.error;
  const char* reason;
  const Driver* api = driver(&reason);
  const std::lock_guard<std::mutex> guard(lock);
  const auto key = std::make_pair(device, key_of(program));
  if (programs.count(key)) return nullptr;
  const WhateverIsCaptured relaxed(api);
  Loaded loaded = {};
  const std::string what = "loading the kernels of " + program.source;
  SM_TRY(what.c_str(), load(&loaded.module, image, 0, nullptr, nullptr));
  programs.emplace(key, std::move(loaded));
  return nullptr;
}

const char* find_kernel(int device, const Program& program, const char* name, Function* function) {
  const OnDevice on(device);
  if (on.error) return on.error;
  const std::lock_guard<std::mutex> guard(lock);
  const auto found = programs.find({device, key_of(program)});
  if (found == programs.end()) return say("the kernels of %s are not loaded", program.source.c_str());
  std::map<std::string, KernelOnDevice>& kernels = found->second.kernels;
  if (!kernels.count(name)) {
    KernelOnDevice kernel = {nullptr, name};
    if (const char* error = prepare(device, found->second.module, &kernel)) return error;
    kernels.emplace(name, kernel);
  }
  *function = &kernels.at(name);
  return nullptr;
}

const char* launch(Function kernel, const void* params, size_t, Grid grid, size_t shared_bytes,
                   void* stream) {
  const char* reason;
  const Driver* api = driver(&reason);
  void* arguments[] = {const_cast<void*>(params)};
  const Result result = api->launch(kernel->function, grid.x, grid.y, grid.z, grid.threads, 1, 1,
                                    (unsigned)shared_bytes, stream, arguments, nullptr);
  return result ? api->explain(("starting the kernel " + kernel->name).c_str(), result) : nullptr;
}

struct Graph {
  int device;
  DriverGraphExec exec;
};

const char* begin_capture(int device, void* stream) {
  const OnDevice on(device);
  if (on.error) return on.error;
  const char* reason;
  const Driver* api = driver(&reason);
  SM_TRY("beginning a capture", begin_capture(stream, kCaptureOfThread));
  return nullptr;
}

const char* end_capture(int device, void* stream, Graph** graph) {
  const OnDevice on(device);
  if (on.error) return on.error;
  const char* reason;
  const Driver* api = driver(&reason);
  DriverGraph captured = nullptr;
  SM_TRY("ending a capture", end_capture(stream, &captured));
  DriverGraphExec exec = nullptr;
  const Result result = api->instantiate(&exec, captured, 0);
  api->destroy_graph(captured);
  if (result) return api->explain("making a graph", result);
  *graph = new Graph{device, exec};
  return nullptr;
}

const char* launch(const Graph* graph, void* stream) {
  const OnDevice on(graph->device);
  if (on.error) return on.error;
  const char* reason;
  const Driver* api = driver(&reason);
  SM_TRY("starting a graph", launch_graph(graph->exec, stream));
  return nullptr;
}

void destroy(Graph* graph) {
  const OnDevice on(graph->device);
  const char* reason;
  if (!on.error) driver(&reason)->destroy_exec(graph->exec);
  delete graph;
}

void declare(const void*, size_t, const char*, bool) {}
void forget_declared() {}

}  // namespace cuda
}  // namespace seemore
