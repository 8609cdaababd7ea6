// Sums over blocks' parts, and adding a number to each plane of an image: sums.cu.
#pragma once

#include "cuda/common.h"

namespace seemore {
namespace cuda {

// A matrix [rows, columns] out of the sums.
struct SumPiece {
  float* to;      // [images, rows, columns]
  size_t offset;  // of its first element in a part
  size_t rows, columns, row_step, column_step;
};

// Block: (32 elements of all pieces one after the other, image).
struct SumParams {
  const float* from;  // [images, parts, width]
  size_t parts, width;
  int images, count;
  SumPiece pieces[8];  // [count]
};

constexpr int kShiftElements = 4096;  // of a block

struct ShiftParams {
  void* images;     // [N, C, plane]
  const float* by;  // [N, C]
  size_t count;     // of elements
  unsigned plane;
  bool vectors;  // four of them lie together, from each fourth on
};

}  // namespace cuda
}  // namespace seemore
