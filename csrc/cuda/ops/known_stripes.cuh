// striped_conv2d with stripes of as many taps as the compiler knows: what a run of outputs needs is in
// registers.
//
// Rows: a thread has 8 neighbouring outputs of a row; columns: 4 of each of 4 neighbouring columns.
#pragma once

#include "cuda/ops/stripes.h"

namespace seemore {
namespace cuda {
namespace {

constexpr int kRun = 8, kRunDown = 4;  // outputs of a thread

template <class T, int TAPS>
struct Stripes {
  using Tile = StripeTile<TAPS>;
  using Element = typename T::Element;
  static constexpr int kPad = Tile::kPad, kLeft = Tile::kLeft, kPitch = Tile::kPitch,
                       kMidPitch = Tile::kMidPitch;
  static constexpr int kAside = kLeft - kPad;  // columns of the region before the first tap's
  static constexpr int kWindow = (kRun + TAPS - 1 + kAside + 3) / 4 * 4;
  static constexpr int kRowTasks = Tile::kWidth / kRun;        // of a row
  static constexpr int kQuads = Tile::kWidth / 4;              // of a row
  static constexpr int kDownTasks = Tile::kHeight / kRunDown;  // of four columns
  static_assert(kThreads == Tile::kHeight * kRowTasks);

  const StripesParams& p;
  const int share, c;
  const size_t plane, offset;  // of the plane's first pixel
  float* const weights;        // [2, kTaps]: weight_h, weight_v
  int y, x;                    // of the tile's first pixel

  SM_DEVICE Stripes(const StripesParams& given, float* shared)
      : p(given),
        share(blockIdx.x % given.shares),
        c(blockIdx.x / given.shares % given.channels),
        plane(blockIdx.x / given.shares),
        offset(plane * given.h * given.w),
        weights(shared) {
    const int tap = threadIdx.x % Tile::kTaps;  // seen after the next barrier
    if (threadIdx.x < Tile::kWeights)
      weights[threadIdx.x] =
          tap < TAPS ? __ldg((threadIdx.x < Tile::kTaps ? p.weight_h : p.weight_v) + c * TAPS + tap) : 0.0f;
  }

  SM_DEVICE int tiles_across() const { return (p.w + Tile::kWidth - 1) / Tile::kWidth; }
  SM_DEVICE int tiles() const { return tiles_across() * ((p.h + Tile::kHeight - 1) / Tile::kHeight); }
  SM_DEVICE void go_to(int tile) {
    const int across = tiles_across();
    y = tile / across * Tile::kHeight, x = tile % across * Tile::kWidth;
  }

  // Of an image's plane, zero outside. A thread has the same four columns of some rows.
  SM_DEVICE void load_region(const void* image, float* to) const {
    constexpr int kQuadsOfRegion = Tile::kColumns / 4, kAtOnce = kThreads / kQuadsOfRegion;
    const int quad = threadIdx.x % kQuadsOfRegion, first = threadIdx.x / kQuadsOfRegion;
    if (first >= kAtOnce) return;
    const int column = x - kLeft + 4 * quad;
    const Element* const from = static_cast<const Element*>(image) + offset + column;
    const bool whole = p.vectors && column >= 0 && column < p.w;
    SM_UNROLL
    for (int i = 0; i < (Tile::kRows + kAtOnce - 1) / kAtOnce; ++i) {
      const int r = first + i * kAtOnce, row = y - kPad + r;
      if (r >= Tile::kRows) break;
      const bool inside = row >= 0 && row < p.h;
      float v[4] = {};
      if (inside && whole) T::load(from + (int64_t)row * p.w, v);
      if (inside && !p.vectors) SM_UNROLL
      for (int q = 0; q < 4; ++q)
        if (column + q >= 0 && column + q < p.w) v[q] = T::load(from + (int64_t)row * p.w + q);
      put(to + r * kPitch + 4 * quad, v);
    }
  }

  // Four neighbours, from a fourth column on.
  SM_DEVICE void store(int row, int column, const float (&v)[4]) const {
    Element* const to = static_cast<Element*>(p.out) + offset + (size_t)row * p.w + column;
    if (row >= p.h || column >= p.w) return;
    if (p.vectors) return T::store(to, v);
    SM_UNROLL
    for (int q = 0; q < 4; ++q)
      if (column + q < p.w) T::store(to + q, v[q]);
  }

  // The first stripe of 8 columns of a region's row to `mid`; zero in rows outside, as the second pads it.
  SM_DEVICE void first_stripe(const float (&window)[kWindow], const float (&w)[Tile::kTaps], float bias,
                              int row, int column, float* mid) const {
    float out[kRun];
    const bool inside = (unsigned)(y - kPad + row) < (unsigned)p.h;
    SM_UNROLL
    for (int o = 0; o < kRun; ++o) {
      out[o] = bias;
      SM_UNROLL
      for (int j = 0; j < TAPS; ++j) out[o] = fmaf(w[j], window[kAside + o + j], out[o]);
      out[o] = inside ? out[o] : 0.0f;
    }
    put(mid + row * kMidPitch + column, out);
  }

  // out[o][q] += sum over j of w[j] from[(o + j) pitch + q].
  static SM_DEVICE void filter_down(float (&out)[kRunDown][4], const float* from, int pitch,
                                    const float* weight, bool reversed) {
    float w[Tile::kTaps];
    fetch(w, weight);
    SM_UNROLL
    for (int r = 0; r < TAPS + kRunDown - 1; ++r) {
      float v[4];
      fetch(v, from + r * pitch);
      SM_UNROLL
      for (int o = 0; o < kRunDown; ++o) {
        const int j = r - o;
        if (j < 0 || j >= TAPS) continue;
        SM_UNROLL
        for (int q = 0; q < 4; ++q) out[o][q] = fmaf(w[reversed ? TAPS - 1 - j : j], v[q], out[o][q]);
      }
    }
  }
};

template <class T, int TAPS>
SM_DEVICE void stripes_kernel(const StripesParams& p) {
  using S = Stripes<T, TAPS>;
  using Tile = typename S::Tile;
  SM_DYNAMIC_SHARED(shared);
  S s(p, reinterpret_cast<float*>(shared));
  float *const region = s.weights + Tile::kWeights, *const mid = region + Tile::kRegion;
  const float bias_h = __ldg(p.bias_h + s.c), bias_v = __ldg(p.bias_v + s.c);
  for (int tile = s.share; tile < s.tiles(); tile += p.shares) {
    s.go_to(tile);
    s.load_region(p.x, region);
    __syncthreads();
    for (int task = threadIdx.x; task < Tile::kRows * S::kRowTasks; task += kThreads) {
      const int row = task % Tile::kRows, column = task / Tile::kRows * kRun;
      float window[S::kWindow], w[Tile::kTaps];
      fetch(window, region + row * S::kPitch + column);
      fetch(w, s.weights);
      s.first_stripe(window, w, bias_h, row, column, mid);
    }
    __syncthreads();
    if (threadIdx.x < S::kQuads * S::kDownTasks) {
      const int column = threadIdx.x % S::kQuads * 4, row = threadIdx.x / S::kQuads * kRunDown;
      float out[kRunDown][4];
      SM_UNROLL
      for (int o = 0; o < kRunDown; ++o) SM_UNROLL
      for (int q = 0; q < 4; ++q) out[o][q] = bias_v;
      S::filter_down(out, mid + row * S::kMidPitch + column, S::kMidPitch, s.weights + Tile::kTaps, false);
      SM_UNROLL
      for (int o = 0; o < kRunDown; ++o) {
        const int y = s.y + row + o, x = s.x + column;
        if (p.gelu) {
          if (y >= p.h || x >= p.w) continue;
          float slope[4] = {};
          const auto* grad = static_cast<const typename T::Element*>(p.grad);
          if (grad) {
            grad += s.offset + (size_t)y * p.w + x;
            if (p.vectors)
              T::load(grad, slope);
            else
              SM_UNROLL
            for (int q = 0; q < 4; ++q)
              if (x + q < p.w) slope[q] = T::load(grad + q);
          }
          SM_UNROLL
          for (int q = 0; q < 4; ++q) out[o][q] = grad ? slope[q] * gelu_slope(out[o][q]) : gelu(out[o][q]);
        }
        s.store(y, x, out[o]);
      }
    }
    __syncthreads();  // before the next tile's region
  }
}

// The block's sums of v[i] over its threads, the i-th in thread i; `memory`: [kThreads N + ..] floats, free.
template <int N>
SM_DEVICE float block_sum(const float (&v)[N], float* memory) {
  constexpr int kPitch = N + 4, kSlices = kThreads / 8;
  float* const parts = memory + kThreads * kPitch;  // [kSlices, 32]
  put(memory + threadIdx.x * kPitch, v);
  __syncthreads();
  const int four = threadIdx.x % 8 * 4, slice = threadIdx.x / 8;
  if (four < N) {
    float sum[4] = {};
    SM_UNROLL
    for (int i = 0; i < 8; ++i) {
      float more[4];
      fetch(more, memory + (8 * slice + i) * kPitch + four);
      SM_UNROLL
      for (int q = 0; q < 4; ++q) sum[q] += more[q];
    }
    put(parts + 32 * slice + four, sum);
  }
  __syncthreads();
  float sum = 0;
  if (threadIdx.x < N) SM_UNROLL
  for (int i = 0; i < kSlices; ++i) sum += parts[32 * i + threadIdx.x];
  return sum;
}

template <class T, int TAPS>
SM_DEVICE void stripes_backward_kernel(const StripesParams& p) {
  using S = Stripes<T, TAPS>;
  using Tile = typename S::Tile;
  SM_DYNAMIC_SHARED(shared);
  S s(p, reinterpret_cast<float*>(shared));
  float* const region = s.weights + Tile::kWeights;  // of x
  float* const mid = region + Tile::kRegion;         // the first stripe's result
  float* const grad = mid + Tile::kMid;              // its region
  float* const slope = grad + Tile::kRegion;  // [kHeight, kPitch]: gradient of the first stripe's result
  static_assert(kThreads * (Tile::kSums + 4) + kThreads / 8 * 32 <=
                Tile::kRegion + Tile::kMid + Tile::kRegion + Tile::kSlope);
  const float bias_h = __ldg(p.bias_h + s.c);
  const int lane = lane_id(), warp = warp_id();
  float sums[Tile::kSums] = {};  // weight_h, weight_v, bias_h, bias_v
  for (int tile = s.share; tile < s.tiles(); tile += p.shares) {
    s.go_to(tile);
    s.load_region(p.x, region);
    s.load_region(p.grad, grad);
    __syncthreads();
    constexpr int kQuadsOfRegion = Tile::kColumns / 4;
    for (int task = threadIdx.x; task < kQuadsOfRegion * S::kDownTasks; task += kThreads) {
      const int column = task % kQuadsOfRegion * 4, row = task / kQuadsOfRegion * kRunDown;
      float out[kRunDown][4] = {};
      S::filter_down(out, grad + row * S::kPitch + column, S::kPitch, s.weights + Tile::kTaps, true);
      SM_UNROLL
      for (int o = 0; o < kRunDown; ++o) {
        SM_UNROLL
        for (int q = 0; q < 4; ++q) out[o][q] = s.y + row + o < p.h ? out[o][q] : 0.0f;
        put(slope + (row + o) * S::kPitch + column, out[o]);
      }
    }
    __syncthreads();
    float window[S::kWindow], w[Tile::kTaps];
    fetch(w, s.weights);
    {  // the tile's rows, one to a lane
      const int row = lane + S::kPad, column = warp * kRun;
      fetch(window, region + row * S::kPitch + column);
      s.first_stripe(window, w, bias_h, row, column, mid);
      float given[kRun];
      fetch(given, slope + lane * S::kPitch + S::kLeft + column);
      SM_UNROLL
      for (int o = 0; o < kRun; ++o) {
        sums[2 * TAPS] += given[o];
        SM_UNROLL
        for (int j = 0; j < TAPS; ++j) sums[j] = fmaf(given[o], window[S::kAside + o + j], sums[j]);
      }
    }
    for (int task = threadIdx.x; task < 2 * S::kPad * S::kRowTasks; task += kThreads) {  // above and below
      const int i = task % (2 * S::kPad), column = task / (2 * S::kPad) * kRun;
      const int row = i < S::kPad ? i : i + Tile::kHeight;
      fetch(window, region + row * S::kPitch + column);
      s.first_stripe(window, w, bias_h, row, column, mid);
    }
    if (p.out) {
      const int column = warp * kRun;
      fetch(window, slope + lane * S::kPitch + column);
      SM_UNROLL
      for (int half = 0; half < kRun; half += 4) {
        float out[4] = {};
        SM_UNROLL
        for (int o = 0; o < 4; ++o) SM_UNROLL
        for (int j = 0; j < TAPS; ++j)
          out[o] = fmaf(w[TAPS - 1 - j], window[S::kAside + half + o + j], out[o]);
        s.store(s.y + lane, s.x + column + half, out);
      }
    }
    __syncthreads();
    if (p.partial && threadIdx.x < S::kQuads * S::kDownTasks) {
      const int column = threadIdx.x % S::kQuads * 4, row = threadIdx.x / S::kQuads * kRunDown;
      float given[kRunDown][4];
      SM_UNROLL
      for (int o = 0; o < kRunDown; ++o) {
        fetch(given[o], grad + (S::kPad + row + o) * S::kPitch + S::kLeft + column);
        SM_UNROLL
        for (int q = 0; q < 4; ++q) sums[2 * TAPS + 1] += given[o][q];
      }
      SM_UNROLL
      for (int r = 0; r < TAPS + kRunDown - 1; ++r) {
        float v[4];
        fetch(v, mid + (row + r) * S::kMidPitch + column);
        SM_UNROLL
        for (int o = 0; o < kRunDown; ++o) {
          const int j = r - o;
          if (j < 0 || j >= TAPS) continue;
          SM_UNROLL
          for (int q = 0; q < 4; ++q) sums[TAPS + j] = fmaf(given[o][q], v[q], sums[TAPS + j]);
        }
      }
    }
    __syncthreads();
  }
  if (!p.partial) return;
  const float sum = block_sum(sums, region);
  const size_t place = ((s.plane / p.channels) * p.shares + s.share) * p.channels + s.c;
  if (threadIdx.x < Tile::kSums) p.partial[place * Tile::kSums + threadIdx.x] = sum;
}

}  // namespace
}  // namespace cuda
}  // namespace seemore
