// What kernels and their host code agree on, engine and operators alike.
#pragma once

#include <cstdint>

namespace seemore {
namespace cuda {

constexpr int kThreads = 256;  // of every block
constexpr int kWarps = kThreads / 32;
constexpr int kMostExperts = 64;

}  // namespace cuda
}  // namespace seemore
