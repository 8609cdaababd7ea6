// Arithmetic of float16, bfloat16 and pairs of them.
#include <algorithm>

#include "cudasim/ptx/narrow.h"
#include "cudasim/ptx/warp.h"

namespace cudasim::ptx {
namespace {

template <class T>
T least(T a, T b) {
  const float x = value(a), y = value(b);
  return x != x ? b : y != y ? a : x < y || (x == y && std::signbit(x)) ? a : b;
}
template <class T>
T most(T a, T b) {
  const float x = value(a), y = value(b);
  return x != x ? b : y != y ? a : x > y || (x == y && !std::signbit(x)) ? a : b;
}
template <class T>
T nan_or(T a, T b, T otherwise) {
  return value(a) != value(a) || value(b) != value(b) ? T{0x7fff} : otherwise;
}

// An operation of one, two or three elements under its opcode, and of pairs under opcode + x2.
template <class T, class F>
void add_both(Rules& r, const std::string& name, F) {
  if constexpr (std::is_invocable_v<F, T>) {
    r[name] = each([](T a) -> T { return F{}(a); });
    r[name + "x2"] = each([](Pair<T> a) -> Pair<T> { return {F{}(a.low), F{}(a.high)}; });
  } else if constexpr (std::is_invocable_v<F, T, T>) {
    r[name] = each([](T a, T b) -> T { return F{}(a, b); });
    r[name + "x2"] =
        each([](Pair<T> a, Pair<T> b) -> Pair<T> { return {F{}(a.low, b.low), F{}(a.high, b.high)}; });
  } else {
    r[name] = each([](T a, T b, T c) -> T { return F{}(a, b, c); });
    r[name + "x2"] = each([](Pair<T> a, Pair<T> b, Pair<T> c) -> Pair<T> {
      return {F{}(a.low, b.low, c.low), F{}(a.high, b.high, c.high)};
    });
  }
}

template <class T>
void add_comparisons(Rules& r, const std::string& type) {
  auto add = [&](const std::string& name, auto compare) {
    using C = decltype(compare);
    r["setp." + name + "." + type] = each([](T a, T b) { return (bool)C{}(value(a), value(b)); });
  };
  add("eq", [](float a, float b) { return a == b; });
  add("ne", [](float a, float b) { return a < b || a > b; });
  add("lt", [](float a, float b) { return a < b; });
  add("le", [](float a, float b) { return a <= b; });
  add("gt", [](float a, float b) { return a > b; });
  add("ge", [](float a, float b) { return a >= b; });
  add("neu", [](float a, float b) { return a != b; });
  add("nan", [](float a, float b) { return a != a || b != b; });
}

template <class T>
void add_arithmetic(Rules& r, const std::string& type) {
  for (const char* rounding : {"", ".rn"}) {
    const std::string suffix = rounding + ("." + type);
    add_both<T>(r, "add" + suffix, [](T a, T b) { return narrow<T>(value(a) + value(b)); });
    add_both<T>(r, "sub" + suffix, [](T a, T b) { return narrow<T>(value(a) - value(b)); });
    add_both<T>(r, "mul" + suffix, [](T a, T b) { return narrow<T>(value(a) * value(b)); });
    add_both<T>(r, "fma" + suffix, [](T a, T b, T c) { return fused(a, b, c); });
    add_both<T>(r, "fma" + (rounding + (".relu." + type)), [](T a, T b, T c) {
      const T d = fused(a, b, c);
      return value(d) < 0 ? T{0} : d;
    });
  }
  add_both<T>(r, "neg." + type, [](T a) { return T{(uint16_t)(a.bits ^ 0x8000)}; });
  add_both<T>(r, "abs." + type, [](T a) { return T{(uint16_t)(a.bits & 0x7fff)}; });
  add_both<T>(r, "min." + type, [](T a, T b) { return least(a, b); });
  add_both<T>(r, "max." + type, [](T a, T b) { return most(a, b); });
  add_both<T>(r, "min.NaN." + type, [](T a, T b) { return nan_or(a, b, least(a, b)); });
  add_both<T>(r, "max.NaN." + type, [](T a, T b) { return nan_or(a, b, most(a, b)); });
  add_both<T>(r, "ex2.approx." + type, [](T a) { return narrow<T>(exp2f(value(a))); });
  add_both<T>(r, "tanh.approx." + type, [](T a) { return narrow<T>(tanhf(value(a))); });
  add_comparisons<T>(r, type);
}

}  // namespace

void add_halves(Rules& r) {
  add_arithmetic<F16>(r, "f16");
  add_arithmetic<BF16>(r, "bf16");
}

}  // namespace cudasim::ptx
