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
  const int share = blockIdx.x % p.shares;
  const size_t plane = blockIdx.x / p.shares;
  auto* const image = static_cast<typename T::Element*>(p.image) + plane * p.plane;
  const float by = __ldg(p.by + plane);
  for (int64_t i = (int64_t)share * kThreads + threadIdx.x; i < p.plane; i += (int64_t)p.shares * kThreads)
    T::store(image + i, T::load(image + i) + by);
}

}  // namespace

}  // namespace cuda
}  // namespace seemore

SM_ENTRY(sum_parts, SumParams, (kThreads), sum_parts_kernel)
SM_ENTRY(shift, ShiftParams, (kThreads), shift_kernel<SM_TYPE>)

#endif
