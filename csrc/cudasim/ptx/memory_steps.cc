// Loads, stores and conversions between address spaces, whose opcodes are taken apart here.
#include <algorithm>
#include <sstream>
#include <vector>

#include "cudasim/ptx/block.h"

namespace cudasim::ptx {
namespace {

enum Space { kGeneric, kShared, kGlobal, kParam };

struct Form {
  Space space = kGeneric;
  int elements = 1, bytes = 0;
  bool is_signed = false;
};

// Rule::modifier: a Form in bits.
int pack(const Form& f) { return f.space | f.elements << 4 | f.bytes << 8 | f.is_signed << 16; }
Form unpack(int m) { return {(Space)(m & 15), m >> 4 & 15, m >> 8 & 255, (m >> 16 & 1) != 0}; }

uint64_t address_of(const Warp& w, const Step& s, int operand, int lane) {
  const unsigned char* slot = w.registers + s.slot[operand];
  return (s.lane_bytes[operand] == 8 ? get<uint64_t>(slot, lane) : get<uint32_t>(slot, lane)) + s.offset;
}

// The lanes' bytes in the simulator's memory, nullptr for lanes that do not take part.
void find(Warp& w, const Step& s, const Form& f, int operand, bool write, unsigned char* (&at)[kLanes]) {
  Block& block = *w.block;
  const int bytes = f.bytes * f.elements;
  uint64_t address[kLanes] = {};
  uint32_t in_shared = 0;
  for (int i = 0; i < kLanes; ++i) {
    at[i] = nullptr;
    if (!(w.mask >> i & 1)) continue;
    address[i] = address_of(w, s, operand, i);
    Space space = f.space;
    if (space == kGeneric) {
      space = block.is_shared(address[i]) ? kShared : kGlobal;
      if (space == kShared) address[i] -= reinterpret_cast<uint64_t>(block.shared);
    }
    if (space == kShared) {
      in_shared |= 1u << i;
      at[i] = block.shared_at(w, i, address[i], bytes, write);
    } else if (space == kParam) {
      at[i] = const_cast<unsigned char*>(block.param_at(w, i, address[i], bytes));
    } else {
      at[i] = block.global_at(w, i, address[i], bytes, write);
    }
  }
  if (in_shared) block.count_shared(s.number, in_shared, address, bytes);
  if (f.space != kParam && (w.mask & ~in_shared))
    block.count_global(s.number, w.mask & ~in_shared, address, bytes);
}

void load(Warp& w, const Step& s) {
  const Form f = unpack(s.modifier);
  unsigned char* at[kLanes];
  find(w, s, f, s.count - 1, false, at);
  for (int e = 0; e < f.elements; ++e)
    for (int i = 0; i < kLanes; ++i) {
      if (!at[i]) continue;
      uint64_t bits = 0;
      memcpy(&bits, at[i] + e * f.bytes, f.bytes);
      if (f.is_signed && f.bytes < 8)
        bits = (uint64_t)((int64_t)(bits << (64 - 8 * f.bytes)) >> (64 - 8 * f.bytes));
      if (s.lane_bytes[e] == 8)
        put(w.registers + s.slot[e], i, bits);
      else
        put(w.registers + s.slot[e], i, (uint32_t)bits);
    }
}

void store(Warp& w, const Step& s) {
  const Form f = unpack(s.modifier);
  unsigned char* at[kLanes];
  find(w, s, f, 0, true, at);
  for (int e = 0; e < f.elements; ++e)
    for (int i = 0; i < kLanes; ++i) {
      if (!at[i]) continue;
      const unsigned char* slot = w.registers + s.slot[1 + e];
      const uint64_t bits = s.lane_bytes[1 + e] == 8 ? get<uint64_t>(slot, i) : get<uint32_t>(slot, i);
      memcpy(at[i] + e * f.bytes, &bits, f.bytes);
    }
}

// cp.async [shared], [global], bytes {, of which the first so many are read, the rest zeros}. The copy is
// made at once: that a kernel waits for it is not checked.
void copy(Warp& w, const Step& s) {
  for (int i = 0; i < kLanes; ++i) {
    if (!(w.mask >> i & 1)) continue;
    const uint64_t to = get<uint32_t>(w.registers + s.slot[0], i) + s.offset;
    const uint64_t from = get<uint64_t>(w.registers + s.slot[1], i) + s.offset_of_source;
    const int bytes = (int)get<uint32_t>(w.registers + s.slot[2], i);
    const int read = s.count > 3 ? std::min(bytes, (int)get<uint32_t>(w.registers + s.slot[3], i)) : bytes;
    unsigned char* target = w.block->shared_at(w, i, to, bytes, true);
    memset(target, 0, bytes);
    if (read == bytes)
      memcpy(target, w.block->global_at(w, i, from, bytes, false), bytes);
    else
      for (int b = 0; b < read; ++b) target[b] = *w.block->global_at(w, i, from + b, 1, false);
  }
  uint64_t to[kLanes] = {}, from[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    to[i] = get<uint32_t>(w.registers + s.slot[0], i) + s.offset;
    from[i] = get<uint64_t>(w.registers + s.slot[1], i) + s.offset_of_source;
  }
  const int bytes = (int)get<uint32_t>(w.registers + s.slot[2], 0);
  w.block->count_shared(s.number, w.mask, to, bytes);
  w.block->count_sectors(s.number, w.mask, from, bytes);
}

void nothing(Warp&, const Step&) {}

template <int sign>
void rebase(Warp& w, const Step& s) {  // between generic addresses and those of shared memory
  const auto base = reinterpret_cast<uint64_t>(w.block->shared);
  for (int i = 0; i < kLanes; ++i)
    if (w.mask >> i & 1) {
      const unsigned char* from = w.registers + s.slot[1];
      const uint64_t address = s.lane_bytes[1] == 8 ? get<uint64_t>(from, i) : get<uint32_t>(from, i);
      if (s.lane_bytes[0] == 8)
        put(w.registers + s.slot[0], i, address + sign * base);
      else
        put(w.registers + s.slot[0], i, (uint32_t)(address + sign * base));
    }
}

void same_address(Warp& w, const Step& s) {
  for (int i = 0; i < kLanes; ++i)
    if (w.mask >> i & 1) put(w.registers + s.slot[0], i, get<uint64_t>(w.registers + s.slot[1], i));
}

Rule plain(const char* widths, Run run) { return {run, run, widths}; }

std::vector<std::string> words_of(const std::string& opcode) {
  std::vector<std::string> words;
  std::istringstream in(opcode);
  for (std::string word; std::getline(in, word, '.');) words.push_back(word);
  return words;
}

// Modifiers that say how to cache, which nothing here depends on.
bool is_hint(const std::string& word) {
  for (const char* hint :
       {"nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "weak", "relaxed", "volatile", "cta", "gpu"})
    if (word == hint) return true;
  return word.rfind("L1::", 0) == 0 || word.rfind("L2::", 0) == 0;
}

}  // namespace

Rule memory_rule(const std::string& opcode) {
  if (opcode == "cvta.to.shared.u64") return plain("88", rebase<-1>);
  if (opcode == "cvta.shared.u64") return plain("88", rebase<1>);
  if (opcode == "cvta.to.global.u64" || opcode == "cvta.global.u64" || opcode == "cvta.param.u64" ||
      opcode == "cvta.to.param.u64")
    return plain("88", same_address);
  if (opcode == "cp.async.commit_group" || opcode == "cp.async.wait_all") return plain("", nothing);
  if (opcode == "cp.async.wait_group") return plain("4", nothing);
  const std::vector<std::string> words = words_of(opcode);
  if (opcode.rfind("cp.async.ca.shared", 0) == 0 || opcode.rfind("cp.async.cg.shared", 0) == 0)
    return plain("4844", copy);
  if (words[0] != "ld" && words[0] != "st" && words[0] != "ldu") return {};
  Form f;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "shared" || word == "shared::cta")
      f.space = kShared;
    else if (word == "global")
      f.space = kGlobal;
    else if (word == "param")
      f.space = kParam;
    else if (word == "v2" || word == "v4" || word == "v8")
      f.elements = word[1] - '0';
    else if (i + 1 == words.size() && word.size() > 1 && strchr("busf", word[0]))
      f.bytes = atoi(word.c_str() + 1) / 8, f.is_signed = word[0] == 's';
    else if (!is_hint(word))
      return {};
  }
  if (f.bytes < 1 || f.bytes > 8) return {};
  Rule rule = words[0] == "st" ? plain("*", store) : plain("", load);
  rule.widths.append(f.elements, '*');
  if (words[0] != "st") rule.widths += '*';
  rule.modifier = pack(f);
  return rule;
}

}  // namespace cudasim::ptx
