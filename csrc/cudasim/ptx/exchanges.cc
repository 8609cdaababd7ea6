// Shuffles, votes and what else the lanes of a warp tell each other.
#include <algorithm>

#include "cudasim/ptx/warp.h"

namespace cudasim::ptx {
namespace {

enum class Way { kIndex, kXor, kUp, kDown };

// d|p, a, b, c, mask: c holds the clamp value and, from bit 8, the mask that splits the warp into segments.
template <Way way>
void shuffle(Warp& w, const Step& s) {
  auto in = [&](int operand, int lane) { return get<uint32_t>(w.registers + s.slot[operand], lane); };
  uint32_t out[kLanes], valid = 0;
  for (int i = 0; i < kLanes; ++i) {
    if (in(5, i) != kAll) w.fail("shfl.sync with a mask that is not full", i);
    const int b = (int)in(3, i) & 31, c = (int)in(4, i) & 31, segment = (int)in(4, i) >> 8 & 31;
    const int most = (i & segment) | (c & ~segment), least = i & segment;
    int j = i;
    if (way == Way::kIndex) j = least | (b & ~segment);
    if (way == Way::kXor) j = i ^ b;
    if (way == Way::kUp) j = i - b;
    if (way == Way::kDown) j = i + b;
    const bool inside = way == Way::kUp ? j >= most : j <= most;
    if (inside) valid |= 1u << i;
    out[i] = in(2, inside ? j & 31 : i);
  }
  for (int i = 0; i < kLanes; ++i) put(w.registers + s.slot[0], i, out[i]);
  put_mask(w.registers + s.slot[1], valid, kAll);
}

uint32_t votes(Warp& w, const Step& s) {
  for (int i = 0; i < kLanes; ++i)
    if (get<uint32_t>(w.registers + s.slot[2], i) != kAll)
      w.fail("vote.sync with a mask that is not full", i);
  uint32_t bits;
  memcpy(&bits, w.registers + s.slot[1], 4);
  return bits;
}

template <class T, class F>
void reduce(Warp& w, const Step& s) {
  T all = get<T>(w.registers + s.slot[1], 0);
  for (int i = 1; i < kLanes; ++i) all = F{}(all, get<T>(w.registers + s.slot[1], i));
  for (int i = 0; i < kLanes; ++i) put(w.registers + s.slot[0], i, all);
}

}  // namespace

void add_exchanges(Rules& r) {
  r["shfl.sync.idx.b32"] = together("4p4444", shuffle<Way::kIndex>);
  r["shfl.sync.bfly.b32"] = together("4p4444", shuffle<Way::kXor>);
  r["shfl.sync.up.b32"] = together("4p4444", shuffle<Way::kUp>);
  r["shfl.sync.down.b32"] = together("4p4444", shuffle<Way::kDown>);
  r["vote.sync.ballot.b32"] = together("4p4", [](Warp& w, const Step& s) {
    const uint32_t bits = votes(w, s);
    for (int i = 0; i < kLanes; ++i) put(w.registers + s.slot[0], i, bits);
  });
  r["vote.sync.any.pred"] = together(
      "pp4", [](Warp& w, const Step& s) { put_mask(w.registers + s.slot[0], votes(w, s) ? kAll : 0, kAll); });
  r["vote.sync.all.pred"] = together("pp4", [](Warp& w, const Step& s) {
    put_mask(w.registers + s.slot[0], votes(w, s) == kAll ? kAll : 0, kAll);
  });
  auto least = [](auto a, auto b) { return std::min(a, b); };
  auto most = [](auto a, auto b) { return std::max(a, b); };
  auto sum = [](uint32_t a, uint32_t b) { return a + b; };
  r["redux.sync.min.s32"] = together("444", reduce<int32_t, decltype(least)>);
  r["redux.sync.max.s32"] = together("444", reduce<int32_t, decltype(most)>);
  r["redux.sync.add.s32"] = together("444", reduce<uint32_t, decltype(sum)>);
  r["bar.warp.sync"] = together("4", [](Warp& w, const Step&) { ++w.epoch; });
}

}  // namespace cudasim::ptx
