// Packed weights, as the kernels on rows take them.  Plain structs: baseline code that packs includes this,
// too.
#pragma once

#include <stdint.h>
#include <string.h>

namespace seemore {

// Output channels a micro-kernel computes at once.  Matrices are packed for it in blocks of kBlock rows;
// the last block has 4, 8 or 12.
constexpr int kBlock = 12;
constexpr int kColumnAlign = 16;  // rows are padded to whole vectors of the widest ISA

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// static: every instruction set compiles its own.
static inline uint32_t to_bf16(float value) {
  if (value != value) return 0x7fc0;
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest even
}

// A convolution as a matrix: M output channels from `taps` rows of K input channels each.
struct Matrix {
  const float* weight;  // [blocks of M][taps][K units][rows of the block]; a unit is one fp32 or two bf16
  const float* bias;    // [M]
  int m;                // padded to a multiple of 4 with zero rows
  int k;                // in units
  int taps;             // 1 (1x1), 9 (3x3), 18 or 12 (3x3 for four or two rows at once: see winograd.h)
};

struct Depthwise {
  const float* weight;  // [C][taps]
  const float* bias;    // [C]
  int taps;
};

}  // namespace seemore
