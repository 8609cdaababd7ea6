// Arithmetic and comparisons of float32, and of float64 as far as it occurs.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cudasim/ptx/warp.h"

namespace cudasim::ptx {
namespace {

// Of two numbers the smaller or larger; a NaN counts as absent.
template <class T>
T least(T a, T b) {
  return a != a ? b : b != b ? a : a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T>
T most(T a, T b) {
  return a != a ? b : b != b ? a : a > b || (a == b && !std::signbit(a)) ? a : b;
}

template <class T>
T either_nan(T a, T b, T otherwise) {
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : otherwise;
}

template <class T>
void add_arithmetic(Rules& r, const std::string& type) {
  for (const char* rounding : {"", ".rn"}) {
    const std::string suffix = rounding + ("." + type);
    r["add" + suffix] = each([](T a, T b) { return a + b; });
    r["sub" + suffix] = each([](T a, T b) { return a - b; });
    r["mul" + suffix] = each([](T a, T b) { return a * b; });
    r["div" + suffix] = each([](T a, T b) { return a / b; });
    r["fma" + suffix] = each([](T a, T b, T c) { return std::fma(a, b, c); });
    r["rcp" + suffix] = each([](T a) { return 1 / a; });
    r["sqrt" + suffix] = each([](T a) { return std::sqrt(a); });
  }
  r["neg." + type] = each([](T a) { return -a; });
  r["abs." + type] = each([](T a) { return std::abs(a); });
  r["min." + type] = each([](T a, T b) { return least(a, b); });
  r["max." + type] = each([](T a, T b) { return most(a, b); });
}

template <class T>
void add_comparisons(Rules& r, const std::string& type) {
  auto add = [&](const std::string& name, auto compare) {
    using C = decltype(compare);
    r["setp." + name + "." + type] = each([](T a, T b) { return (bool)C{}(a, b); });
    r["setp." + name + ".and." + type] = each([](T a, T b, bool c) { return C{}(a, b) && c; });
    r["setp." + name + ".or." + type] = each([](T a, T b, bool c) { return C{}(a, b) || c; });
  };
  add("eq", [](T a, T b) { return a == b; });
  add("ne", [](T a, T b) { return a < b || a > b; });
  add("lt", [](T a, T b) { return a < b; });
  add("le", [](T a, T b) { return a <= b; });
  add("gt", [](T a, T b) { return a > b; });
  add("ge", [](T a, T b) { return a >= b; });
  add("equ", [](T a, T b) { return !(a < b || a > b); });
  add("neu", [](T a, T b) { return a != b; });
  add("ltu", [](T a, T b) { return !(a >= b); });
  add("leu", [](T a, T b) { return !(a > b); });
  add("gtu", [](T a, T b) { return !(a <= b); });
  add("geu", [](T a, T b) { return !(a < b); });
  add("num", [](T a, T b) { return a == a && b == b; });
  add("nan", [](T a, T b) { return a != a || b != b; });
}

// Rounded towards minus infinity, by the sign of the error.
float fma_down(float a, float b, float c) {
  const double exact = std::fma((double)a, (double)b, (double)c);
  const auto near = (float)exact;
  return near > exact ? std::nextafter(near, -std::numeric_limits<float>::infinity()) : near;
}

}  // namespace

void add_floats(Rules& r) {
  add_arithmetic<float>(r, "f32");
  add_arithmetic<double>(r, "f64");
  add_comparisons<float>(r, "f32");
  add_comparisons<double>(r, "f64");
  r["min.NaN.f32"] = each([](float a, float b) { return either_nan(a, b, least(a, b)); });
  r["max.NaN.f32"] = each([](float a, float b) { return either_nan(a, b, most(a, b)); });
  r["fma.rm.f32"] = each([](float a, float b, float c) { return fma_down(a, b, c); });
  // A GPU's approximations err by some units in the last place; here they are as exact as float32 is.
  r["ex2.approx.f32"] = each([](float a) { return exp2f(a); });
  r["lg2.approx.f32"] = each([](float a) { return log2f(a); });
  r["rsqrt.approx.f32"] = each([](float a) { return 1 / std::sqrt(a); });
  r["sqrt.approx.f32"] = each([](float a) { return std::sqrt(a); });
  r["rcp.approx.f32"] = each([](float a) { return 1 / a; });
  r["div.approx.f32"] = each([](float a, float b) { return a / b; });
  r["div.full.f32"] = each([](float a, float b) { return a / b; });
  r["tanh.approx.f32"] = each([](float a) { return tanhf(a); });
}

}  // namespace cudasim::ptx
