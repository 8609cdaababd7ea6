/* A CUDA driver without a GPU, for tests of what asks it: it logs calls to the file FAKE_LOG.
 *
 * FAKE_DEVICES: how many; FAKE_VERSION: of CUDA; FAKE_CAPABILITY: 90; FAKE_FAIL: "function code", what fails with
 * what. Modules are their images, functions their names, streams numbers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text ? atoi(text) : otherwise;
}

static int called(const char* function, const char* what) {
  char failing[64] = "";
  int code = 0;
  FILE* log = fopen(getenv("FAKE_LOG"), "a");
  fprintf(log, "%s %s\n", function, what);
  fclose(log);
  if (getenv("FAKE_FAIL")) sscanf(getenv("FAKE_FAIL"), "%63s %d", failing, &code);
  return strcmp(failing, function) == 0 ? code : 0;
}

static int current = -1;

int cuInit(unsigned flags) { return called("cuInit", flags ? "flags" : ""); }
int cuDriverGetVersion(int* version) {
  *version = number("FAKE_VERSION", 13000);
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = number("FAKE_DEVICES", 1);
  return called("cuDeviceGetCount", "");
}
int cuDeviceGet(int* device, int index) {
  *device = 100 + index;
  return index < number("FAKE_DEVICES", 1) ? 0 : 101;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int capability = number("FAKE_CAPABILITY", 90);
  *value = attribute == 75   ? capability / 10
           : attribute == 76 ? capability % 10
           : attribute == 16 ? 132
           : attribute == 97 ? 227 << 10
                             : 228 << 10;
  return device >= 100 ? 0 : 101;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = (void*)(long)device;
  return called("cuDevicePrimaryCtxRetain", "");
}
int cuCtxPushCurrent_v2(void* context) {
  current = (int)(long)context;
  return 0;
}
int cuCtxPopCurrent_v2(void** context) {
  *context = (void*)(long)current;
  current = -1;
  return 0;
}
int cuModuleLoadDataEx(void** module, const void* image, unsigned count, int* options, void** values) {
  char what[64];
  (void)options, (void)values;
  snprintf(what, sizeof what, "%s on %d, options %u", (const char*)image, current, count);
  *module = (void*)1;
  return called("cuModuleLoadDataEx", what);
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = strdup(name);
  return module && current >= 0 ? called("cuModuleGetFunction", name) : 400;
}
int cuFuncGetAttribute(int* value, int attribute, void* function) {
  *value = attribute == 0 ? 1024 : attribute == 1 ? 512 : -1;
  return function ? 0 : 400;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  char what[128];
  snprintf(what, sizeof what, "%s %d %d", (char*)function, attribute, value);
  return called("cuFuncSetAttribute", what);
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** params, void** extra) {
  char what[200];
  snprintf(what, sizeof what, "%s on %d, stream %ld, grid %u %u %u, block %u %u %u, shared %s", (char*)function,
           current, (long)stream, gx, gy, gz, bx, by, bz, shared <= 227 << 10 ? "fits" : "is too much");
  return params && params[0] && !extra ? called("cuLaunchKernel", what) : 1;
}
int cuThreadExchangeStreamCaptureMode(int* mode) {
  static int now = 0;
  const int before = now;
  now = *mode;
  *mode = before;
  return called("cuThreadExchangeStreamCaptureMode", now == 2 ? "relaxed" : "as before");
}
int cuStreamBeginCapture_v2(void* stream, int mode) {
  char what[64];
  snprintf(what, sizeof what, "%ld on %d%s", (long)stream, current, mode == 1 ? ", of this thread" : "");
  return called("cuStreamBeginCapture_v2", what);
}
int cuStreamEndCapture(void* stream, void** graph) {
  *graph = (void*)11;
  return called("cuStreamEndCapture", stream ? "" : "no stream");
}
int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  *exec = (void*)12;
  return called("cuGraphInstantiateWithFlags", graph == (void*)11 && !flags ? "" : "something else");
}
int cuGraphDestroy(void* graph) { return called("cuGraphDestroy", graph == (void*)11 ? "" : "something else"); }
int cuGraphLaunch(void* exec, void* stream) {
  char what[64];
  snprintf(what, sizeof what, "%ld on %d, stream %ld", (long)exec, current, (long)stream);
  return called("cuGraphLaunch", what);
}
int cuGraphExecDestroy(void* exec) { return called("cuGraphExecDestroy", exec == (void*)12 ? "" : "something else"); }

/* What Triton asks for beside. Launches are logged where FAKE_PARAMS says how many parameters a kernel has, by their
 * first four bytes each: the time of others is measured. */
int cuCtxGetCurrent(void** context) {
  *context = current < 0 ? NULL : (void*)(long)current;
  return 0;
}
int cuCtxSetCurrent(void* context) {
  current = (int)(long)context;
  return 0;
}
int cuCtxGetLimit(size_t* value, int limit) {
  *value = 1 << 20;
  return limit >= 0 ? 0 : 1;
}
int cuCtxSetLimit(int limit, size_t value) { return limit >= 0 && value ? 0 : 1; }
int cuModuleLoadData(void** module, const void* image) {
  *module = (void*)1;
  return image ? 0 : 200;
}
int cuFuncSetCacheConfig(void* function, int config) { return function && config >= 0 ? 0 : 400; }
int cuPointerGetAttribute(void* data, int attribute, unsigned long long pointer) {
  *(unsigned long long*)data = pointer;
  return attribute ? 0 : 1;
}
int cuLaunchKernelEx(const unsigned* config, void* function, void** params, void** extra) {
  static int count = -1;
  char what[400];
  int at, i;
  if (!config || !function || !params || extra) return 1;
  if (count < 0) count = number("FAKE_PARAMS", 0);
  if (count == 0) return 0;
  at = snprintf(what, sizeof what, "%s, grid %u %u %u, block %u %u %u, shared %u, params", (char*)function, config[0],
                config[1], config[2], config[3], config[4], config[5], config[6]);
  for (i = 0; i < count; ++i) at += snprintf(what + at, sizeof what - at, " %x", *(unsigned*)params[i]);
  return called("cuLaunchKernelEx", what);
}
int cuGetErrorName(int error, const char** text) {
  *text = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : 0;
  if (error == 100) *text = "CUDA_ERROR_NO_DEVICE";
  return *text ? 0 : 1;
}
#ifndef FAKE_WITHOUT_TEXT
int cuGetErrorString(int error, const char** text) {
  *text = error == 2 ? "out of memory" : error == 719 ? "unspecified launch failure" : "no device is detected";
  return 0;
}
#endif
