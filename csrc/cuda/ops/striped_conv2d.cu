// striped_conv2d: both stripes of a tile of one plane in shared memory; gradients of x and weights in one
// pass.
//
// SeemoRe's own stripes, of 3 and 11 taps, have kernels in which the compiler knows that number.
#ifdef SM_HOST
#include "cuda/ops/stripes.h"
#else
#include "cuda/ops/any_stripes.cuh"
#include "cuda/ops/known_stripes.cuh"
#endif

#ifdef SM_HOST

#include <string>

namespace seemore {
namespace cuda {
namespace {

struct Kind {
  const char* taps;          // in the kernels' names
  int pixels;                // of a tile
  size_t forward, backward;  // bytes of shared memory
};

template <int TAPS>
Kind known(const char* taps) {
  using Tile = StripeTile<TAPS>;
  return {taps, Tile::kHeight * Tile::kWidth, Tile::kForward, Tile::kBackward};
}

Kind kind_of(int taps) {
  if (taps == 3) return known<3>("3");
  if (taps == 11) return known<11>("11");
  const size_t side = kAnySide + taps - 1, mid = side * (kAnySide + 1), region = side * (side + 1),
               slope = kAnySide * (side + 1);
  return {"", kAnySide * kAnySide, sizeof(float) * (region + mid),
          sizeof(float) * (2 * region + mid + slope)};
}

}  // namespace

void striped_conv2d(Call& call) {
  const sm_cuda_op_params& given = call.params;
  const int taps = (int)given.kernel;
  const Kind kind = kind_of(taps);
  StripesParams p = {};
  p.x = call.in(0);
  p.weight_h = call.in(1), p.bias_h = call.in(2), p.weight_v = call.in(3), p.bias_v = call.in(4);
  p.channels = call.channels, p.h = (int)given.h, p.w = (int)given.w, p.taps = taps;
  p.gelu = given.gelu != 0;
  p.vectors = given.w % 4 == 0 && call.vectors(p.x) && call.vectors(call.grad()) && call.vectors(call.out(0));
  const auto start = [&](const char* name, size_t shared) {
    call.start("striped_conv2d", (std::string(name) + kind.taps).c_str(), p, call.planes * p.shares, 1,
               shared);
  };
  const auto forward = [&](void* out) {
    p.out = out;
    p.shares = call.tiles(kind.pixels);
    start("stripes", kind.forward);
  };
  if (!given.backward) return forward(call.out(0));
  p.grad = call.grad();
  if (p.gelu) {
    void* const before = call.image();
    forward(before);
    p.grad = before;
  }
  p.out = call.out(0);
  p.shares = call.few(kind.pixels, call.planes);
  const size_t width = 2 * taps + 2, c = call.channels;
  if (call.wants(1, 5)) p.partial = call.floats(given.n * p.shares * c * width);
  start("stripes_backward", kind.backward);
  call.sum(p.partial, 1, given.n * p.shares, c * width)
      .piece(call.out(1), 0, c, taps, width, 1)
      .piece(call.out(2), 2 * taps, c, 1, width, 1)
      .piece(call.out(3), taps, c, taps, width, 1)
      .piece(call.out(4), 2 * taps + 1, c, 1, width, 1);
}

}  // namespace cuda
}  // namespace seemore

#else

// Six blocks have all threads of a multiprocessor of sm_86: for eight ptxas would spill (16 bit, sm_80).
SM_ENTRY(stripes, StripesParams, (kThreads, 6), any_stripes_kernel<SM_TYPE>)
SM_ENTRY(stripes_backward, StripesParams, (kThreads), any_stripes_backward_kernel<SM_TYPE>)
SM_ENTRY(stripes3, StripesParams, (kThreads, 4), stripes_kernel<SM_TYPE, 3>)
SM_ENTRY(stripes11, StripesParams, (kThreads, 4), stripes_kernel<SM_TYPE, 11>)
SM_ENTRY(stripes_backward3, StripesParams, (kThreads, 2), stripes_backward_kernel<SM_TYPE, 3>)
SM_ENTRY(stripes_backward11, StripesParams, (kThreads, 2), stripes_backward_kernel<SM_TYPE, 11>)

#endif
