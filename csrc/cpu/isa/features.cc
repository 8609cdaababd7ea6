// CPUID on x86-64, the operating system's word on ARM64.
//
// Not __builtin_cpu_supports(): Clang's needs a run-time library that not every platform's has, and on other
// processors than x86 it knows nothing of what is asked here.
#include "cpu/isa/features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif

namespace seemore {

#if defined(__x86_64__)
namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

// Zeros for a leaf that there is not.
Registers cpuid(unsigned leaf, unsigned part) {
  Registers r;
  if (!__get_cpuid_count(leaf, part, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

bool all(unsigned value, unsigned bits) { return (value & bits) == bits; }

// Register states that the operating system saves: without its help a CPU counts as one without them.
unsigned saved_states() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

}  // namespace

X86Level x86_level() {
  const Registers basic = cpuid(1, 0), more = cpuid(7, 0), most = cpuid(7, 1),
                  extended = cpuid(0x80000001, 0);
  constexpr unsigned kLahf = 1 << 0, kLzcnt = 1 << 5, kOsXsave = 1 << 27;
  // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT
  if (!all(basic.c, 1u << 0 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23) || !all(extended.c, kLahf))
    return X86Level::kNone;
  // FMA, MOVBE, AVX, F16C; BMI1, AVX2, BMI2
  if (!all(basic.c, kOsXsave | 1u << 12 | 1u << 22 | 1u << 28 | 1u << 29) || !all(extended.c, kLzcnt) ||
      !all(more.b, 1u << 3 | 1u << 5 | 1u << 8))
    return X86Level::kV2;
  constexpr unsigned kAvxState = 0x06;
  const unsigned saved = saved_states();
  if (!all(saved, kAvxState)) return X86Level::kV2;
#if defined(__APPLE__)
  const bool saves_avx512 = true;  // macOS adds the state once a thread uses it
#else
  const bool saves_avx512 = all(saved, 0xe6);
#endif
  // AVX512-F, DQ, CD, BW, VL
  if (!saves_avx512 || !all(more.b, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31))
    return X86Level::kV3;
  return all(most.a, 1u << 5) ? X86Level::kV4Bf16 : X86Level::kV4;
}

bool arm_has_bf16() { return false; }

size_t cache_of_a_core() {
  // Asked once: a virtual machine's host answers, which takes it microseconds.
  static const size_t bytes = [] {
    const unsigned siblings = cpuid(0xb, 0).b & 0xffff, threads = siblings ? siblings : 1;  // of a core
    constexpr unsigned kIntel = 4, kAmd = 0x8000001d, kInstructions = 2;
    const unsigned leaf = cpuid(kIntel, 0).a & 31 ? kIntel : kAmd;
    size_t sum = 0;
    for (unsigned i = 0;; ++i) {
      const Registers r = cpuid(leaf, i);
      const unsigned type = r.a & 31, level = r.a >> 5 & 7, sharing = (r.a >> 14 & 0xfff) + 1;
      if (type == 0) return sum;
      if (type == kInstructions || level < 2) continue;
      const size_t ways = (r.b >> 22) + 1, parts = (r.b >> 12 & 0x3ff) + 1, line = (r.b & 0xfff) + 1;
      sum += ways * parts * line * ((size_t)r.c + 1) / (sharing > threads ? sharing / threads : 1);
    }
  }();
  return bytes;
}

#else

size_t cache_of_a_core() { return 0; }

X86Level x86_level() { return X86Level::kNone; }

bool arm_has_bf16() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kHwcap2Bf16 = 1ul << 14;
  return getauxval(AT_HWCAP2) & kHwcap2Bf16;
#elif defined(__aarch64__) && defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has;
#elif defined(__aarch64__) && defined(_WIN32)
  constexpr DWORD kArmV86Bf16 = 68;  // PF_ARM_V86_BF16_INSTRUCTIONS_AVAILABLE, which older SDKs lack
  return IsProcessorFeaturePresent(kArmV86Bf16);
#else
  return false;
#endif
}

#endif

}  // namespace seemore
