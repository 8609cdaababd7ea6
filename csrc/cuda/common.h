// What kernels and their host code agree on, engine and operators alike.
#pragma once

#ifdef __CUDACC_RTC__
// NVRTC may be all that is there of CUDA: no header but these sources.
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned;
using uint64_t = unsigned long long;
using uintptr_t = unsigned long long;
#else
#include <cstdint>
#endif

namespace seemore {
namespace cuda {

constexpr int kThreads = 256;  // of a block, but where plan.cc chooses more
constexpr int kWarps = kThreads / 32;
constexpr int kMostExperts = 64;

}  // namespace cuda
}  // namespace seemore
