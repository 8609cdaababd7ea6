// striped_conv2d: both stripes of a tile of one plane in shared memory; gradients of x and weights in one
// pass.
//
// A tile of 32 x 32 pixels has a region of side 32 + taps - 1 around it, zero outside the image.
#include "cuda/ops/host.h"

namespace seemore {
namespace cuda {
namespace {

constexpr int kSide = 32;  // of a tile

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
};

#ifndef SM_HOST

constexpr int kMidPitch = kSide + 1;
constexpr int kRun = 4;  // neighbouring outputs of a thread

struct StripeTile {
  int side, pitch;  // of the region; an odd pitch, so that lanes on neighbouring rows use different banks
  int y, x;         // of the region's first pixel, in the image
};

SM_DEVICE StripeTile stripe_tile(const StripesParams& p, int tile) {
  const int across = (p.w + kSide - 1) / kSide, side = kSide + p.taps - 1, pad = p.taps / 2;
  return {side, side + 1, tile / across * kSide - pad, tile % across * kSide - pad};
}

SM_DEVICE int stripe_tiles(const StripesParams& p) {
  return ((p.w + kSide - 1) / kSide) * ((p.h + kSide - 1) / kSide);
}

template <class T>
SM_DEVICE void load_region(const StripesParams& p, const StripeTile& at, const typename T::Element* plane,
                           float* to) {
  for (int r = warp_id(); r < at.side; r += kWarps)
    for (int c = lane_id(); c < at.side; c += 32) {
      const int y = at.y + r, x = at.x + c;
      const bool inside = y >= 0 && y < p.h && x >= 0 && x < p.w;
      to[r * at.pitch + c] = inside ? T::load(plane + (size_t)y * p.w + x) : 0.0f;
    }
}

// out[o] = bias + sum over j of weight[j step_w] line[(o + j) step].
SM_DEVICE void filter_run(float (&out)[kRun], const float* line, int step, const float* weight, int step_w,
                          int taps, float bias) {
  float window[kRun];
  SM_UNROLL
  for (int o = 0; o < kRun; ++o) out[o] = bias;
  SM_UNROLL
  for (int o = 0; o + 1 < kRun; ++o) window[o] = line[o * step];
  for (int j = 0; j < taps; ++j) {
    const float w = __ldg(weight + j * step_w);
    window[kRun - 1] = line[(j + kRun - 1) * step];
    SM_UNROLL
    for (int o = 0; o < kRun; ++o) out[o] = fmaf(w, window[o], out[o]);
    SM_UNROLL
    for (int o = 0; o + 1 < kRun; ++o) window[o] = window[o + 1];
  }
}

// x's region -> the first stripe's result, [side, 32]; zero in rows outside the image, as the second pads it.
SM_DEVICE void first_stripe(const StripesParams& p, const StripeTile& at, int c, const float* region,
                            float* mid) {
  const float* weight = p.weight_h + c * p.taps;
  for (int task = threadIdx.x; task < at.side * (kSide / kRun); task += kThreads) {
    const int row = task % at.side, column = task / at.side * kRun, y = at.y + row;
    float out[kRun];
    filter_run(out, region + row * at.pitch + column, 1, weight, 1, p.taps, __ldg(p.bias_h + c));
    SM_UNROLL
    for (int o = 0; o < kRun; ++o) mid[row * kMidPitch + column + o] = y >= 0 && y < p.h ? out[o] : 0.0f;
  }
}

template <class T>
SM_DEVICE void stripes_kernel(const StripesParams& p) {
  using Element = typename T::Element;
  SM_DYNAMIC_SHARED(shared);
  const int share = blockIdx.x % p.shares, plane = blockIdx.x / p.shares, c = plane % p.channels;
  const size_t offset = (size_t)plane * p.h * p.w;
  for (int tile = share; tile < stripe_tiles(p); tile += p.shares) {
    const StripeTile at = stripe_tile(p, tile);
    float *region = reinterpret_cast<float*>(shared), *mid = region + at.side * at.pitch;
    load_region<T>(p, at, static_cast<const Element*>(p.x) + offset, region);
    __syncthreads();
    first_stripe(p, at, c, region, mid);
    __syncthreads();
    const int column = lane_id(), row = warp_id() * kRun, pad = p.taps / 2;
    float out[kRun];
    filter_run(out, mid + row * kMidPitch + column, kMidPitch, p.weight_v + c * p.taps, 1, p.taps,
               __ldg(p.bias_v + c));
    SM_UNROLL
    for (int o = 0; o < kRun; ++o) {
      const int y = at.y + pad + row + o, x = at.x + pad + column;
      if (y >= p.h || x >= p.w) continue;
      const size_t pixel = offset + (size_t)y * p.w + x;
      float value = out[o];
      if (p.grad)
        value = T::load(static_cast<const Element*>(p.grad) + pixel) * gelu_slope(value);
      else if (p.gelu)
        value = gelu(value);
      T::store(static_cast<Element*>(p.out) + pixel, value);
    }
    __syncthreads();  // before the next tile's region
  }
}

template <class T>
SM_DEVICE void stripes_backward_kernel(const StripesParams& p) {
  using Element = typename T::Element;
  SM_DYNAMIC_SHARED(shared);
  const int share = blockIdx.x % p.shares, plane = blockIdx.x / p.shares, c = plane % p.channels;
  const int taps = p.taps, pad = taps / 2, last = taps - 1;
  const size_t offset = (size_t)plane * p.h * p.w;
  const float *weight_h = p.weight_h + c * taps, *weight_v = p.weight_v + c * taps;
  const size_t place = ((size_t)(plane / p.channels) * p.shares + share) * p.channels + c;
  for (int tile = share; tile < stripe_tiles(p); tile += p.shares) {
    const StripeTile at = stripe_tile(p, tile);
    float* x = reinterpret_cast<float*>(shared);  // [side, pitch]
    float* mid = x + at.side * at.pitch;          // [side, 33]: the first stripe's result
    float* grad = mid + at.side * kMidPitch;      // [side, pitch]
    float* slope = grad + at.side * at.pitch;     // [32, pitch]: gradient of the first stripe's result
    load_region<T>(p, at, static_cast<const Element*>(p.x) + offset, x);
    load_region<T>(p, at, static_cast<const Element*>(p.grad) + offset, grad);
    __syncthreads();
    first_stripe(p, at, c, x, mid);
    for (int task = threadIdx.x; task < at.side * (kSide / kRun); task += kThreads) {
      const int column = task % at.side, row = task / at.side * kRun;
      float out[kRun];
      filter_run(out, grad + row * at.pitch + column, at.pitch, weight_v + last, -1, taps, 0);
      SM_UNROLL
      for (int o = 0; o < kRun; ++o)
        slope[(row + o) * at.pitch + column] = at.y + pad + row + o < p.h ? out[o] : 0.0f;
    }
    __syncthreads();
    const int lane = lane_id();
    if (p.out) {
      const int row = warp_id() * kRun, to = at.x + pad + lane;
      float out[kRun] = {};
      for (int j = 0; j < taps; ++j) {
        const float w = __ldg(weight_h + last - j);
        SM_UNROLL
        for (int o = 0; o < kRun; ++o) out[o] = fmaf(w, slope[(row + o) * at.pitch + lane + j], out[o]);
      }
      SM_UNROLL
      for (int o = 0; o < kRun; ++o) {
        const int y = at.y + pad + row + o;
        if (y < p.h && to < p.w)
          T::store(static_cast<Element*>(p.out) + offset + (size_t)y * p.w + to, out[o]);
      }
    }
    if (p.partial) {
      const float *inner_slope = slope + pad + lane, *inner_grad = grad + pad * at.pitch + pad + lane;
      for (int what = warp_id(); what < 2 * taps + 2; what += kWarps) {
        float sum = 0;
        for (int row = 0; row < kSide; ++row) {
          const float s = inner_slope[row * at.pitch], g = inner_grad[row * at.pitch];
          if (what < taps)
            sum = fmaf(s, x[(row + pad) * at.pitch + lane + what], sum);
          else if (what < 2 * taps)
            sum = fmaf(g, mid[(row + what - taps) * kMidPitch + lane], sum);
          else
            sum += what == 2 * taps ? s : g;
        }
        sum = warp_sum(sum);
        if (lane == 0) {
          float* const to = p.partial + place * (2 * taps + 2) + what;
          *to = tile == share ? sum : *to + sum;
        }
      }
    }
    __syncthreads();
  }
}

#endif

}  // namespace

#ifdef SM_HOST

void striped_conv2d(Call& call) {
  const sm_cuda_op_params& given = call.params;
  const int taps = (int)given.kernel, side = kSide + taps - 1;
  const size_t mid = side * (kSide + 1), region = side * (side + 1), slope = kSide * (side + 1);
  StripesParams p = {};
  p.x = call.in(0);
  p.weight_h = call.in(1), p.bias_h = call.in(2), p.weight_v = call.in(3), p.bias_v = call.in(4);
  p.channels = call.channels, p.h = (int)given.h, p.w = (int)given.w, p.taps = taps;
  p.gelu = given.gelu != 0;
  p.shares = call.tiles(kSide * kSide);
  const auto forward = [&](void* out) {
    p.out = out;
    call.start("striped_conv2d", "stripes", p, call.planes * p.shares, 1, sizeof(float) * (region + mid));
  };
  if (!given.backward) return forward(call.out(0));
  p.grad = call.grad();
  if (p.gelu) {
    void* const before = call.image();
    forward(before);
    p.grad = before;
  }
  p.out = call.out(0);
  p.shares = call.few(kSide * kSide, call.planes);
  const size_t width = 2 * taps + 2, c = call.channels;
  if (call.wants(1, 5)) p.partial = call.floats(given.n * p.shares * c * width);
  call.start("striped_conv2d", "stripes_backward", p, call.planes * p.shares, 1,
             sizeof(float) * (2 * region + mid + slope));
  call.sum(p.partial, 1, given.n * p.shares, c * width)
      .piece(call.out(1), 0, c, taps, width, 1)
      .piece(call.out(2), 2 * taps, c, 1, width, 1)
      .piece(call.out(3), taps, c, taps, width, 1)
      .piece(call.out(4), 2 * taps + 1, c, 1, width, 1);
}

#endif

}  // namespace cuda
}  // namespace seemore

#ifndef SM_HOST

// Six blocks have all threads of a multiprocessor of sm_86: for eight ptxas would spill (16 bit, sm_80).
SM_ENTRY(stripes, StripesParams, (kThreads, 6), stripes_kernel<SM_TYPE>)
SM_ENTRY(stripes_backward, StripesParams, (kThreads), stripes_backward_kernel<SM_TYPE>)

#endif
