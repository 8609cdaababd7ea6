// Between the halves of RME, once for each image: routing, and the coarse map that the experts read resized.
#pragma once

#include "cuda/engine/mix.cuh"

namespace seemore {
namespace cuda {

template <int NT>
constexpr int kCoarsePitch = coarse_pitch(NT);

// Shared memory: the last level of aggregation around the block's pixels [3, kCoarseColumns + 2, CP], their
// depthwise convolutions [kCoarseColumns, kPitch], logits [experts].
template <class P, int NT>
SM_DEVICE void coarse_kernel(const CoarseParams& params) {
  constexpr int kChannels = 8 * NT, kFours = kChannels / 4, kWide = kCoarseColumns + 2,
                kPitch = kCoarsePitch<NT>;
  SM_DYNAMIC_SHARED(memory);
  const MixParams& p = params.mix;
  auto* level = reinterpret_cast<float*>(memory);
  float* mixed = level + 3 * kWide * kChannels;
  float* logits = mixed + kCoarseColumns * kPitch;
  const int across = (p.map_w + kCoarseColumns - 1) / kCoarseColumns, n = blockIdx.z;
  const int row = (int)blockIdx.x / across, column = (int)blockIdx.x % across * kCoarseColumns;
  const int columns = min(kCoarseColumns, p.map_w - column);

  auto fetch = [](const float* four) { return __ldg(reinterpret_cast<const float4*>(four)); };
  if (blockIdx.x == 0) sum_logits(p, params.at, n, logits);
  const float* low = p.low + (size_t)n * p.low_h * p.low_w * kChannels;
  for (int task = threadIdx.x; task < 3 * kWide * kFours; task += kThreads) {  // four channels of a pixel
    const int channel = task % kFours * 4, i = task / kFours;
    const int y = row - 1 + i / kWide, x = column - 1 + i % kWide;
    float4 value = {};
    if (y >= 0 && y < p.map_h && x >= 0 && x < p.map_w) {
      if (p.aggregate_again) {
        value = fetch(p.aggregate.bias + channel);
        SM_NO_UNROLL
        for (int dy = 0; dy < 4; ++dy) SM_UNROLL
        for (int tap = 4 * dy; tap < 4 * dy + 4; ++tap) {
          const size_t from = ((size_t)(4 * y + tap / 4) * p.low_w + 4 * x + tap % 4) * kChannels + channel;
          const float4 weight = fetch(p.aggregate.weight + tap * kChannels + channel), v = fetch(low + from);
          value.x = fmaf(weight.x, v.x, value.x), value.y = fmaf(weight.y, v.y, value.y);
          value.z = fmaf(weight.z, v.z, value.z), value.w = fmaf(weight.w, v.w, value.w);
        }
        value = {gelu(value.x), gelu(value.y), gelu(value.z), gelu(value.w)};
      } else {
        value = fetch(low + ((size_t)y * p.low_w + x) * kChannels + channel);
      }
    }
    reinterpret_cast<float4*>(level)[task] = value;
  }
  __syncthreads();
  if (blockIdx.x == 0 && threadIdx.x == 0) choose(p, logits);
  for (int task = threadIdx.x; task < columns * kChannels; task += kThreads) {
    // Found here: of a counter that it knows, NVVM makes one of 64 bits for sm_120, and a quotient of those.
    const int x = found_here(task) / kChannels, channel = task - x * kChannels;
    float value = __ldg(p.low_conv.bias + channel);
    for (int tap = 0; tap < 9; ++tap)
      value = fmaf(__ldg(p.low_conv.weight + tap * kChannels + channel),
                   level[(tap / 3 * kWide + x + tap % 3) * kChannels + channel], value);
    mixed[x * kPitch + channel] = value;
  }
  __syncthreads();
  if (blockIdx.x == 0)
    weigh(p, logits, kChannels, p.weight + (size_t)n * p.ranks, p.bias + (size_t)n * kChannels);
  auto* map =
      static_cast<typename P::Element*>(p.map) + (((size_t)n * p.map_h + row) * p.map_w + column) * p.ranks;
  for (int task = threadIdx.x; task < columns * p.ranks / 2; task += kThreads) {
    const int rank = 2 * task % p.ranks, x = 2 * task / p.ranks;
    P::store_pair(map + 2 * task, make_float2(project_low(p, mixed + x * kPitch, kChannels, rank),
                                              project_low(p, mixed + x * kPitch, kChannels, rank + 1)));
  }
}

}  // namespace cuda
}  // namespace seemore
