// A warp that executes PTX in lockstep, and what instructions need to be written down in a line each.
//
// A register has 32 lanes side by side, of 4 or 8 bytes; narrower types use the lower bits. A predicate is a
// mask, one bit a lane.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <unordered_map>

namespace cudasim::ptx {

constexpr int kLanes = 32;
constexpr uint32_t kAll = 0xffffffffu;
constexpr int kMostOperands = 20;

struct Block;
struct Warp;
struct Step;
using Run = void (*)(Warp&, const Step&);

// An instruction, ready to run: its operands one after another, vectors taken apart.
struct Step {
  Run run;
  Run narrow_run = nullptr;      // of a conversion that reads the lower half of a wider register
  uint32_t slot[kMostOperands];  // bytes from the start of the warp's registers
  uint8_t lane_bytes[kMostOperands];
  uint8_t count = 0;  // of operands
  bool full = false;  // needs all lanes of the warp
  uint32_t guard;
  bool guarded = false, guard_negated = false;
  int64_t offset = 0, offset_of_source = 0;  // of its first and second address
  int modifier = 0;                          // what an instruction makes of it: bytes, comparison ..
  int number;                                // of the step in its kernel
  int target = -1, join = -1;                // of a branch: steps to go to, and where both ways meet again
  int line;
};

struct Warp {
  Block* block;
  int number;
  unsigned char* registers;
  uint32_t alive, mask;  // lanes that have not ended; those that execute the current step
  uint32_t epoch = 0;    // counts warp-wide barriers

  [[noreturn]] void fail(const std::string& message, int lane = -1) const;
};

template <class T>
inline T get(const unsigned char* slot, int lane) {
  if constexpr (std::is_same_v<T, bool>) {
    uint32_t mask;
    memcpy(&mask, slot, 4);
    return mask >> lane & 1;
  } else if constexpr (sizeof(T) == 8) {
    uint64_t bits;
    memcpy(&bits, slot + 8 * lane, 8);
    return std::bit_cast<T>(bits);
  } else {
    uint32_t bits;
    memcpy(&bits, slot + 4 * lane, 4);
    if constexpr (sizeof(T) == 4)
      return std::bit_cast<T>(bits);
    else if constexpr (sizeof(T) == 2)
      return std::bit_cast<T>((uint16_t)bits);
    else
      return std::bit_cast<T>((uint8_t)bits);
  }
}

template <class T>
inline void put(unsigned char* slot, int lane, T value) {
  if constexpr (sizeof(T) == 8) {
    memcpy(slot + 8 * lane, &value, 8);
  } else {
    uint32_t bits;
    if constexpr (sizeof(T) == 4)
      bits = std::bit_cast<uint32_t>(value);
    else if constexpr (sizeof(T) == 2)
      bits = std::bit_cast<uint16_t>(value);
    else
      bits = std::bit_cast<uint8_t>(value);
    memcpy(slot + 4 * lane, &bits, 4);
  }
}

inline void put_mask(unsigned char* slot, uint32_t bits, uint32_t mask) {
  uint32_t old;
  memcpy(&old, slot, 4);
  old = (old & ~mask) | (bits & mask);
  memcpy(slot, &old, 4);
}

template <class T>
constexpr char width_of() {
  return std::is_same_v<T, bool> ? 'p' : sizeof(T) == 8 ? '8' : '4';
}

// How an opcode runs: with and without .ftz, and the widths of its operands: p, 4, 8; * for any.
struct Rule {
  Run run, run_ftz;
  std::string widths;
  bool full = false;
  int modifier = 0;
};

template <bool ftz, class T>
inline T flushed(T x) {
  if constexpr (ftz && std::is_same_v<T, float>) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    return (bits & 0x7f800000) ? x : std::bit_cast<float>(bits & 0x80000000);
  } else {
    return x;
  }
}

template <bool ftz, class F, class R, class... A, size_t... I>
inline void run_lanes(Warp& w, const Step& s, std::index_sequence<I...>) {
  unsigned char* const d = w.registers + s.slot[0];
  const unsigned char* const from[] = {(w.registers + s.slot[I + 1])..., nullptr};
  F f;
  auto lane = [&](int i) __attribute__((always_inline)) {
    return flushed<ftz>(f(flushed<ftz>(get<A>(from[I], i))...));
  };
  if constexpr (std::is_same_v<R, bool>) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= (uint32_t)lane(i) << i;
    put_mask(d, bits, w.mask);
  } else if (w.mask == kAll) {
    for (int i = 0; i < kLanes; ++i) put<R>(d, i, lane(i));
  } else {
    for (int i = 0; i < kLanes; ++i)
      if (w.mask >> i & 1) put<R>(d, i, lane(i));
  }
}

template <bool ftz, class F, class R, class... A>
void run_each(Warp& w, const Step& s) {
  run_lanes<ftz, F, R, A...>(w, s, std::index_sequence_for<A...>{});
}

template <class F, class R, class... A>
Rule rule_of(R (F::*)(A...) const) {
  return {run_each<false, F, R, A...>, run_each<true, F, R, A...>,
          std::string{width_of<R>(), width_of<A>()...}};
}

// An instruction that does the same in every lane: its result from its operands.
template <class F>
Rule each(F) {
  return rule_of(&F::operator());
}

// An instruction of the entire warp; every lane must take part.
inline Rule together(const char* widths, Run run) { return {run, run, widths, true}; }

using Rules = std::unordered_map<std::string, Rule>;

// The tables, by kind. Opcodes are given without .ftz.
void add_integers(Rules& rules);
void add_floats(Rules& rules);
void add_halves(Rules& rules);
void add_conversions(Rules& rules);
void add_exchanges(Rules& rules);
void add_matrices(Rules& rules);

// Loads, stores and conversions of addresses have too many forms for a table. nullptr: opcode is none of
// them.
Rule memory_rule(const std::string& opcode);

}  // namespace cudasim::ptx
