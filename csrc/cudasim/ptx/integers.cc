// Integer arithmetic, logic, moves, selections and comparisons.
#include <algorithm>

#include "cudasim/ptx/warp.h"

namespace cudasim::ptx {
namespace {

template <class T>
void add_arithmetic(Rules& r, const std::string& type) {
  using U = std::make_unsigned_t<T>;
  r["add." + type] = each([](T a, T b) { return (T)((U)a + (U)b); });
  r["sub." + type] = each([](T a, T b) { return (T)((U)a - (U)b); });
  r["min." + type] = each([](T a, T b) { return std::min(a, b); });
  r["max." + type] = each([](T a, T b) { return std::max(a, b); });
  // What a division by zero gives is not defined; it must not stop the simulator.
  r["div." + type] = each(
      [](T a, T b) { return b == 0 || (U)b == (U)-1 ? (T)((U)0 - (b == 0 ? (U)1 : (U)a)) : (T)(a / b); });
  r["rem." + type] = each([](T a, T b) {
    return b == 0 ? a : (U)b == (U)-1 && std::is_signed_v<T> ? T(0) : (T)(a % b);
  });
  r["mul.lo." + type] = each([](T a, T b) { return (T)((uint64_t)a * (uint64_t)b); });
  r["mad.lo." + type] = each([](T a, T b, T c) { return (T)((uint64_t)a * (uint64_t)b + (uint64_t)c); });
  r["shr." + type] = each([](T a, uint32_t n) {
    return (T)(n >= 8 * sizeof(T) ? (std::is_signed_v<T> && a < 0 ? -1 : 0) : a >> n);
  });
}

template <class T, class Wide>
void add_wide(Rules& r, const std::string& type) {
  r["mul.wide." + type] = each([](T a, T b) { return (Wide)((Wide)a * (Wide)b); });
  r["mad.wide." + type] = each([](T a, T b, Wide c) {
    return (Wide)((std::make_unsigned_t<Wide>)((Wide)a * (Wide)b) + (std::make_unsigned_t<Wide>)c);
  });
  r["mul.hi." + type] = each([](T a, T b) { return (T)((Wide)a * (Wide)b >> (8 * sizeof(T))); });
}

template <class T>
void add_signed(Rules& r, const std::string& type) {
  r["neg." + type] = each([](T a) { return (T)(0 - (std::make_unsigned_t<T>)a); });
  r["abs." + type] = each([](T a) { return (T)(a < 0 ? 0 - (std::make_unsigned_t<T>)a : a); });
}

template <class T>
void add_logic(Rules& r, const std::string& type) {
  r["and." + type] = each([](T a, T b) { return (T)(a & b); });
  r["or." + type] = each([](T a, T b) { return (T)(a | b); });
  r["xor." + type] = each([](T a, T b) { return (T)(a ^ b); });
  r["not." + type] = each([](T a) { return (T)~a; });
  r["shl." + type] = each([](T a, uint32_t n) { return (T)(n >= 8 * sizeof(T) ? 0 : a << n); });
  r["shr." + type] = each([](T a, uint32_t n) { return (T)(n >= 8 * sizeof(T) ? 0 : a >> n); });
}

template <class T>
void add_moves(Rules& r, const std::string& type) {
  r["mov." + type] = each([](T a) { return a; });
  r["selp." + type] = each([](T a, T b, bool c) { return c ? a : b; });
}

template <class T>
void add_comparisons(Rules& r, const std::string& type) {
  auto add = [&](const std::string& name, auto compare) {
    using C = decltype(compare);
    r["setp." + name + "." + type] = each([](T a, T b) { return (bool)C{}(a, b); });
    r["setp." + name + ".and." + type] = each([](T a, T b, bool c) { return C{}(a, b) && c; });
    r["setp." + name + ".or." + type] = each([](T a, T b, bool c) { return C{}(a, b) || c; });
    r["setp." + name + ".xor." + type] = each([](T a, T b, bool c) { return C{}(a, b) != c; });
  };
  add("eq", [](T a, T b) { return a == b; });
  add("ne", [](T a, T b) { return a != b; });
  add("lt", [](T a, T b) { return a < b; });
  add("le", [](T a, T b) { return a <= b; });
  add("gt", [](T a, T b) { return a > b; });
  add("ge", [](T a, T b) { return a >= b; });
  add("lo", [](T a, T b) { return a < b; });
  add("ls", [](T a, T b) { return a <= b; });
  add("hi", [](T a, T b) { return a > b; });
  add("hs", [](T a, T b) { return a >= b; });
}

void add_predicates(Rules& r) {
  r["and.pred"] = each([](bool a, bool b) { return a && b; });
  r["or.pred"] = each([](bool a, bool b) { return a || b; });
  r["xor.pred"] = each([](bool a, bool b) { return a != b; });
  r["not.pred"] = each([](bool a) { return !a; });
  r["mov.pred"] = each([](bool a) { return a; });
}

// {a, b} as bytes 0..7; a selector's low three bits choose one, its fourth replicates the sign.
uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t bytes = (uint64_t)b << 32 | a;
  uint32_t d = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t s = selector >> (4 * i) & 15;
    uint32_t byte = bytes >> (8 * (s & 7)) & 0xff;
    if (s & 8) byte = byte & 0x80 ? 0xff : 0;
    d |= byte << (8 * i);
  }
  return d;
}

// Bit i of the result is bit 4 a_i + 2 b_i + c_i of the table.
uint32_t lookup(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t d = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return d;
}

void add_bits(Rules& r) {
  r["prmt.b32"] = each([](uint32_t a, uint32_t b, uint32_t c) { return permute(a, b, c); });
  r["lop3.b32"] = each([](uint32_t a, uint32_t b, uint32_t c, uint32_t d) { return lookup(a, b, c, d); });
  r["popc.b32"] = each([](uint32_t a) { return (uint32_t)std::popcount(a); });
  r["clz.b32"] = each([](uint32_t a) { return (uint32_t)std::countl_zero(a); });
  auto insert = [](uint32_t a, uint32_t b, uint32_t at, uint32_t n) {
    at &= 255, n &= 255;
    const uint64_t field = (n >= 32 ? 0xffffffffull : (1ull << n) - 1) << std::min(at, 63u);
    return (uint32_t)((b & ~field) | (((uint64_t)a << std::min(at, 63u)) & field));
  };
  r["bfi.b32"] = each(insert);
  auto extract = [](uint32_t a, uint32_t at, uint32_t n) {
    at &= 255, n &= 255;
    return (uint32_t)(at > 31 ? 0 : (uint64_t)a >> at & (n >= 32 ? 0xffffffffull : (1ull << n) - 1));
  };
  r["bfe.u32"] = each(extract);
  r["bfe.s32"] = each([](int32_t a, uint32_t at, uint32_t n) {
    at &= 255, n &= 255;
    if (n == 0) return 0;
    const int64_t shifted = (int64_t)a >> std::min(at, 31u);
    return (int32_t)(n >= 32 ? shifted : (int64_t)((uint64_t)shifted << (64 - n)) >> (64 - n));
  });
  r["shf.l.wrap.b32"] = each([](uint32_t a, uint32_t b, uint32_t n) {
    return (uint32_t)(((uint64_t)b << 32 | a) << (n & 31) >> 32);
  });
  r["shf.r.wrap.b32"] = each(
      [](uint32_t a, uint32_t b, uint32_t n) { return (uint32_t)(((uint64_t)b << 32 | a) >> (n & 31)); });
  r["shf.r.clamp.b32"] = each([](uint32_t a, uint32_t b, uint32_t n) {
    return (uint32_t)(((uint64_t)b << 32 | a) >> std::min(n, 32u));
  });
  r["shf.l.clamp.b32"] = each([](uint32_t a, uint32_t b, uint32_t n) {
    return (uint32_t)(((uint64_t)b << 32 | a) << std::min(n, 32u) >> 32);
  });
}

// Registers taken apart and put together: "mov.b32 {}=" and "mov.b32 ={}".
template <class Whole, class Part>
void take_apart(Warp& w, const Step& s) {
  for (int i = 0; i < kLanes; ++i) {
    if (!(w.mask >> i & 1)) continue;
    const Whole whole = get<Whole>(w.registers + s.slot[s.count - 1], i);
    for (int part = 0; part < s.count - 1; ++part)
      put<Part>(w.registers + s.slot[part], i, (Part)(whole >> (8 * sizeof(Part) * part)));
  }
}
template <class Whole, class Part>
void put_together(Warp& w, const Step& s) {
  for (int i = 0; i < kLanes; ++i) {
    if (!(w.mask >> i & 1)) continue;
    Whole whole = 0;
    for (int part = 0; part < s.count - 1; ++part)
      whole |= (Whole)get<Part>(w.registers + s.slot[part + 1], i) << (8 * sizeof(Part) * part);
    put<Whole>(w.registers + s.slot[0], i, whole);
  }
}

}  // namespace

void add_integers(Rules& r) {
  add_arithmetic<int16_t>(r, "s16"), add_arithmetic<uint16_t>(r, "u16");
  add_arithmetic<int32_t>(r, "s32"), add_arithmetic<uint32_t>(r, "u32");
  add_arithmetic<int64_t>(r, "s64"), add_arithmetic<uint64_t>(r, "u64");
  add_wide<int16_t, int32_t>(r, "s16"), add_wide<uint16_t, uint32_t>(r, "u16");
  add_wide<int32_t, int64_t>(r, "s32"), add_wide<uint32_t, uint64_t>(r, "u32");
  add_signed<int16_t>(r, "s16"), add_signed<int32_t>(r, "s32"), add_signed<int64_t>(r, "s64");
  add_logic<uint16_t>(r, "b16"), add_logic<uint32_t>(r, "b32"), add_logic<uint64_t>(r, "b64");
  for (const char* kind : {"b", "u", "s", "f"}) {
    add_moves<uint16_t>(r, kind + std::string("16"));
    add_moves<uint32_t>(r, kind + std::string("32"));
    add_moves<uint64_t>(r, kind + std::string("64"));
  }
  add_comparisons<int16_t>(r, "s16"), add_comparisons<uint16_t>(r, "u16"),
      add_comparisons<uint16_t>(r, "b16");
  add_comparisons<int32_t>(r, "s32"), add_comparisons<uint32_t>(r, "u32"),
      add_comparisons<uint32_t>(r, "b32");
  add_comparisons<int64_t>(r, "s64"), add_comparisons<uint64_t>(r, "u64"),
      add_comparisons<uint64_t>(r, "b64");
  add_predicates(r);
  add_bits(r);
  r["mov.b32 {}="] = {take_apart<uint32_t, uint16_t>, take_apart<uint32_t, uint16_t>, "444"};
  r["mov.b32 ={}"] = {put_together<uint32_t, uint16_t>, put_together<uint32_t, uint16_t>, "444"};
  r["mov.b64 {}="] = {take_apart<uint64_t, uint32_t>, take_apart<uint64_t, uint32_t>, "448"};
  r["mov.b64 ={}"] = {put_together<uint64_t, uint32_t>, put_together<uint64_t, uint32_t>, "844"};
}

}  // namespace cudasim::ptx
