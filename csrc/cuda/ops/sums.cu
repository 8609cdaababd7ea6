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
    const size_t first = p.parts * warp / kWarps, end = p.parts * (warp + 1) / kWarps;
    const float* next = from + first * p.width;
    for (unsigned left = end - first; left; --left, next += p.width) sum += __ldg(next);
  }
  sums[32 * warp + lane] = sum;
  __syncthreads();
  if (warp > 0 || i == p.count) return;
  for (int w = 1; w < kWarps; ++w) sum += sums[32 * w + lane];
  p.pieces[i].to[blockIdx.y * p.pieces[i].rows * p.pieces[i].columns + element] = sum;
}

// V elements at a time.
template <class T, int V>
SM_DEVICE void shift_runs(const ShiftParams& p) {
  auto* const images = static_cast<typename T::Element*>(p.images);
  const unsigned plane_runs = p.plane / V;
  size_t run = (size_t)blockIdx.x * (kShiftElements / V) + threadIdx.x;
  const size_t block_end = (size_t)(blockIdx.x + 1) * (kShiftElements / V);
  const size_t end = block_end < p.count / V ? block_end : p.count / V;
  size_t plane = run / plane_runs;
  unsigned pixels = run % plane_runs;
  for (; run < end; run += kThreads) {
    const float by = __ldg(p.by + plane);
    float v[V];
    load_run<T>(v, images + V * run);
    SM_UNROLL
    for (int q = 0; q < V; ++q) v[q] += by;
    store_run<T>(images + V * run, v);
    for (pixels += kThreads; pixels >= plane_runs; pixels -= plane_runs) ++plane;
  }
}

template <class T>
SM_DEVICE void shift_kernel(const ShiftParams& p) {
  if (p.vectors)
    shift_runs<T, 4>(p);
  else
    shift_runs<T, 1>(p);
}

}  // namespace

}  // namespace cuda
}  // namespace seemore

SM_ENTRY(sum_parts, SumParams, (kThreads), sum_parts_kernel)
SM_ENTRY(shift, ShiftParams, (kThreads), shift_kernel<SM_TYPE>)

#endif
