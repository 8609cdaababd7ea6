// A row of an image's pixels, all channels, and how kernels walk it.
//
// A row is [channels][pitch] floats; a pointer to it points at column 0, and columns before 0 exist (halo).
#pragma once

#include "cpu/isa/simd.h"

namespace seemore {
namespace SM_ISA {

struct Row {
  float* p;         // channel 0, column 0
  ptrdiff_t pitch;  // between channels

  // A buffer of a chunk's width, addressed by the columns of a chunk that starts at x.
  SM_INLINE Row window(int x) const { return {p - x, pitch}; }
  SM_INLINE float* at(int channel, int x) const { return p + channel * pitch + x; }
};

// A number of vectors known at compile time: kernels between the products compute several at once, to hide
// latency and to load each weight once for all of them.
template <int N>
struct Vectors {};

constexpr int kUnroll = 4;

// Calls f(Vectors<n>(), x) over [x0, x1): kUnroll vectors at a time, then one.
template <class F>
SM_INLINE void each_column(int x0, int x1, F f) {
  int x = x0;
  for (; x + kUnroll * VL <= x1; x += kUnroll * VL) f(Vectors<kUnroll>(), x);
  for (; x < x1; x += VL) f(Vectors<1>(), x);
}

// Columns worked on at once where a product's operands are made just before it: they stay in the L1 cache.
constexpr int kChunk = 64;

// Calls f(from, to) for the chunks of [x0, x1).
template <class F>
SM_INLINE void each_chunk(int x0, int x1, F f) {
  for (int x = x0; x < x1; x += kChunk) f(x, x + kChunk < x1 ? x + kChunk : x1);
}

// Asks for columns [from, to) of a row's channels.
SM_INLINE void fetch_columns(const Row& row, int channel, int channels, int from, int to) {
  for (int c = channel; c < channel + channels; ++c)
    for (int x = from; x < to; x += 16) __builtin_prefetch(row.at(c, x));
}

// Zeroes columns [from, to) of a row's channels: PyTorch's padding sees 0 there, not what a kernel that
// ran over the image's edge left.
SM_INLINE void zero_columns(const Row& row, int channels, int from, int to) {
  if (from >= to) return;
  for (int c = 0; c < channels; ++c) memset(row.at(c, from), 0, sizeof(float) * (to - from));
}

}  // namespace SM_ISA
}  // namespace seemore
