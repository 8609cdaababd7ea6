// cvt, by target and source type.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cudasim/ptx/narrow.h"
#include "cudasim/ptx/warp.h"

namespace cudasim::ptx {
namespace {

// Integers from floats: saturated, NaN gives 0.
template <class To>
To to_integer(double x) {
  if (x != x) return 0;
  constexpr auto least = (double)std::numeric_limits<To>::min(),
                 most = (double)std::numeric_limits<To>::max();
  return x <= least ? std::numeric_limits<To>::min() : x >= most ? std::numeric_limits<To>::max() : (To)x;
}

template <class To, class From>
void add_between_integers(Rules& r, const std::string& to, const std::string& from) {
  r["cvt." + to + "." + from] = each([](From x) { return (To)x; });
}

template <class From>
void add_from_integer(Rules& r, const std::string& from) {
  add_between_integers<uint8_t, From>(r, "u8", from), add_between_integers<int8_t, From>(r, "s8", from);
  add_between_integers<uint16_t, From>(r, "u16", from), add_between_integers<int16_t, From>(r, "s16", from);
  add_between_integers<uint32_t, From>(r, "u32", from), add_between_integers<int32_t, From>(r, "s32", from);
  add_between_integers<uint64_t, From>(r, "u64", from), add_between_integers<int64_t, From>(r, "s64", from);
  r["cvt.rn.f32." + from] = each([](From x) { return (float)x; });
  r["cvt.rn.f64." + from] = each([](From x) { return (double)x; });
  r["cvt.rn.f16." + from] = each([](From x) { return narrow<F16>((float)x); });
}

template <class To>
void add_to_integer(Rules& r, const std::string& to) {
  r["cvt.rzi." + to + ".f32"] = each([](float x) { return to_integer<To>(std::trunc(x)); });
  r["cvt.rni." + to + ".f32"] = each([](float x) { return to_integer<To>(std::nearbyint(x)); });
  r["cvt.rmi." + to + ".f32"] = each([](float x) { return to_integer<To>(std::floor(x)); });
  r["cvt.rpi." + to + ".f32"] = each([](float x) { return to_integer<To>(std::ceil(x)); });
}

template <class T>
void add_narrow(Rules& r, const std::string& type) {
  r["cvt.f32." + type] = each([](T x) { return value(x); });
  r["cvt.rn." + type + ".f32"] = each([](float x) { return narrow<T>(x); });
  r["cvt.rn." + type + "x2.f32"] = each([](float high, float low) { return narrow_pair<T>(low, high); });
  r["cvt.rn.relu." + type + "x2.f32"] =
      each([](float high, float low) { return narrow_pair<T>(low < 0 ? 0 : low, high < 0 ? 0 : high); });
}

float round_tf32(float x) {
  if (!std::isfinite(x)) return x;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0x1000) & ~0x1fffu);
}

}  // namespace

void add_conversions(Rules& r) {
  add_from_integer<uint8_t>(r, "u8"), add_from_integer<int8_t>(r, "s8");
  add_from_integer<uint16_t>(r, "u16"), add_from_integer<int16_t>(r, "s16");
  add_from_integer<uint32_t>(r, "u32"), add_from_integer<int32_t>(r, "s32");
  add_from_integer<uint64_t>(r, "u64"), add_from_integer<int64_t>(r, "s64");
  add_to_integer<uint32_t>(r, "u32"), add_to_integer<int32_t>(r, "s32");
  add_to_integer<uint16_t>(r, "u16"), add_to_integer<int16_t>(r, "s16");
  add_to_integer<uint64_t>(r, "u64"), add_to_integer<int64_t>(r, "s64");
  add_to_integer<uint8_t>(r, "u8");
  add_narrow<F16>(r, "f16");
  add_narrow<BF16>(r, "bf16");
  r["cvt.rni.f32.f32"] = each([](float x) { return std::nearbyint(x); });
  r["cvt.rzi.f32.f32"] = each([](float x) { return std::trunc(x); });
  r["cvt.rmi.f32.f32"] = each([](float x) { return std::floor(x); });
  r["cvt.rpi.f32.f32"] = each([](float x) { return std::ceil(x); });
  r["cvt.sat.f32.f32"] = each([](float x) { return x > 0 ? std::min(x, 1.f) : 0.f; });
  r["cvt.rna.tf32.f32"] = each([](float x) { return round_tf32(x); });
  r["cvt.f64.f32"] = each([](float x) { return (double)x; });
  r["cvt.rn.f32.f64"] = each([](double x) { return (float)x; });
}

}  // namespace cudasim::ptx
