// For the .cu files: SM_ENTRY makes a kernel that the host can find by its name (runtime.h).
//
// A file is compiled for one program at a time: SM_PRECISION and SM_WIDTH, or SM_TYPE, say which. Where
// SM_SPECIAL is defined, for one network alone (engine/specialise.cuh).
#pragma once

#include "cuda/device.cuh"

using namespace seemore::cuda;

// SM_ENTRY(name, parameters, (threads, blocks to a multiprocessor), kernel)
#ifdef SEEMORE_CUDASIM

// SM_SOURCE: the file, as programs.h names it.
#define SM_TEXT_(text) #text
#define SM_TEXT(text) SM_TEXT_(text)
#ifdef SM_WIDTH
#define SM_OPTIONS "-DSM_PRECISION=" SM_TEXT(SM_PRECISION) " -DSM_WIDTH=" SM_TEXT(SM_WIDTH)
#elif defined(SM_PRECISION)
#define SM_OPTIONS "-DSM_PRECISION=" SM_TEXT(SM_PRECISION)
#else
#define SM_OPTIONS "-DSM_TYPE=" SM_TEXT(SM_TYPE)
#endif

#define SM_ENTRY(name, Params, bounds, ...)                                                   \
  namespace {                                                                                 \
  void name##_body(void* p) { __VA_ARGS__(*static_cast<const Params*>(p)); }                  \
  const bool name##_known = cudasim::add_entry(SM_SOURCE " " SM_OPTIONS, #name, name##_body); \
  }

#elif defined(SM_SPECIAL)

#define SM_ENTRY(name, Params, bounds, ...)                                                        \
  extern "C" __global__ void __launch_bounds__ bounds name(const __grid_constant__ Params given) { \
    Params p = given;                                                                              \
    specialise(p);                                                                                 \
    __VA_ARGS__(p);                                                                                \
  }

#else

#define SM_ENTRY(name, Params, bounds, ...)                                                    \
  extern "C" __global__ void __launch_bounds__ bounds name(const __grid_constant__ Params p) { \
    __VA_ARGS__(p);                                                                            \
  }

#endif
