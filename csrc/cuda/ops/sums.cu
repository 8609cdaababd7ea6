// Sums over blocks' parts, in an order that depends on nothing but their number; planes plus a number each.
#include "cuda/ops/host.h"
#include "cuda/ops/sums.h"

#ifndef SM_HOST

namespace seemore {
namespace cuda {
namespace {

// Lanes take neighbouring elements, warps shares of the parts.
SM_DEVICE void sum_parts_kernel(const SumParams& p) {
  SM_DYNAMIC_SHARED(shared);
  float* const sums = reinterpret_cast<float*>(shared);  // [kWarps, 32]
  const int lane = lane_id(), warp = warp_id();
  size_t element = (size_t)blockIdx.x * 32 + lane;
  int i = 0;
  while (i < p.count && element >= p.pieces[i].rows * p.pieces[i].columns) {
    element -= p.pieces[i].rows * p.pieces[i].columns;
    ++i;
  }
  float sum = 0;
  if (i < p.count) {
    const SumPiece& piece = p.pieces[i];
    const size_t row = element / piece.columns, column = element % piece.columns;
    const float* const from = p.from + blockIdx.y * p.parts * p.width + piece.offset + row * piece.row_step +
                              column * piece.column_step;
    const size_t end = p.parts * (warp + 1) / kWarps;
    for (size_t part = p.parts * warp / kWarps; part < end; ++part) sum += __ldg(from + part * p.width);
  }
  sums[32 * warp + lane] = sum;
  __syncthreads();
  if (warp > 0 || i == p.count) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[32 * w + lane];
  p.pieces[i].to[blockIdx.y * p.pieces[i].rows * p.pieces[i].columns + element] = sum;
}

template <class T>
SM_DEVICE void shift_kernel(const ShiftParams& p) {
  auto* const images = static_cast<typename T::Element*>(p.images);
  size_t at = (size_t)blockIdx.x * kShiftElements + threadIdx.x;
  const size_t block_end = (size_t)(blockIdx.x + 1) * kShiftElements;
  const size_t end = block_end < p.count ? block_end : p.count;
  size_t plane = at / p.plane;
  unsigned pixel = at % p.plane;
  for (; at < end; at += kThreads) {
    T::store(images + at, T::load(images + at) + __ldg(p.by + plane));
    pixel += kThreads;
    plane += pixel / p.plane;
    pixel %= p.plane;
  }
}

}  // namespace

}  // namespace cuda
}  // namespace seemore

SM_ENTRY(sum_parts, SumParams, (kThreads), sum_parts_kernel)
SM_ENTRY(shift, ShiftParams, (kThreads), shift_kernel<SM_TYPE>)

#endif
