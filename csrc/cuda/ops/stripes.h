// striped_conv2d's kernels: what they are given, and the tiles of those whose taps the compiler knows.
#pragma once

#include "cuda/ops/host.h"

namespace seemore {
namespace cuda {

// Block: share + shares * plane.
struct StripesParams {
  const void* x;          // [N, C, H, W]
  const float* weight_h;  // [C, taps]
  const float* bias_h;    // [C]
  const float* weight_v;  // [C, taps]
  const float* bias_v;    // [C]
  const void* grad;       // [N, C, H, W]: backward; forward with it: the gradient before GELU comes out
  void* out;              // [N, C, H, W]: result, gradient before GELU, or (backward) of x unless null
  float* partial;         // [N, shares, C, 2 taps + 2]: weight_h, weight_v, bias_h, bias_v; or null
  int channels, h, w, taps;
  int shares;
  bool gelu;
  bool vectors;  // four neighbours of a row lie together, from each fourth column on
};

constexpr int kAnySide = 32;  // of a tile, for any number of taps

// A tile of 32 x 64 pixels of a plane, for stripes of TAPS. Its region begins at a fourth column, and a pitch
// is an odd number of 16-byte units: so lanes on neighbouring rows use different banks.
template <int TAPS>
struct StripeTile {
  static constexpr int kHeight = 32, kWidth = 64;
  static constexpr int kPad = TAPS / 2, kLeft = (kPad + 3) / 4 * 4;
  static constexpr int kRows = kHeight + 2 * kPad, kColumns = kWidth + 2 * kLeft;  // of the region
  static constexpr int kPitch = kColumns + (kColumns % 8 ? 0 : 4), kMidPitch = kWidth + 4;
  static constexpr int kTaps = (TAPS + 3) / 4 * 4;  // of a direction, in shared memory
  static constexpr int kSums = 2 * TAPS + 2;
  static_assert(kSums % 8 == 0 && kSums <= 32);

  // Floats in shared memory.
  static constexpr int kWeights = 2 * kTaps, kRegion = kRows * kPitch, kMid = kRows * kMidPitch,
                       kSlope = kHeight * kPitch;
  static constexpr size_t kForward = sizeof(float) * (kWeights + kRegion + kMid);
  static constexpr size_t kBackward = sizeof(float) * (kWeights + 2 * kRegion + kMid + kSlope);
};

}  // namespace cuda
}  // namespace seemore
