// The engine's kernels one by one, on rows that stay in the cache: for benchmarks/test_kernels.py, and for
// the processor's own peak.  Timing is the caller's; compiled once per ISA.
#include "cpu/engine/microbench.h"

#include "cpu/engine/strip.h"
#include "cpu/isa/tasks.h"
#include "cpu/rows/depthwise.h"
#include "cpu/rows/gemm.h"
#include "cpu/rows/norm.h"
#include "cpu/rows/winograd.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

extern const MicrobenchTable* microbench_table();

namespace {

constexpr int kStripe = 11;  // taps of SME's stripes
constexpr int kPad = 2 * kColumnAlign;
using Conv = RowConv<Fp32>;                 // of all precisions the one with the most rows and products
constexpr int kTaps = 3 * Conv::kProducts;  // of the largest matrix

// Rows and weights that every kernel finds what it needs in; the values only have to be harmless.
struct Bench {
  int channels, width;
  Scratch<float> memory;
  Arena arena;
  Row in[kStripe + 1], out[Conv::kRows], scratch[Conv::kProducts];
  float* weights;
  float* bias;

  static size_t floats(int channels, int width) {
    const size_t rows =
        (kStripe + 1 + Conv::kRows) * (size_t)(width + 2 * kPad) + Conv::kProducts * (size_t)Conv::kWidth;
    return channels * (rows + kTaps * (size_t)channels + 1);
  }

  Bench(int channels_, int width_) : channels(channels_), width(width_), memory(floats(channels_, width_)) {
    if (!memory.data) return;
    const size_t count = floats(channels, width);
    for (size_t i = 0; i < count; ++i) memory.data[i] = 1e-3f * (float)(i & 63);
    arena = {memory.data, 0};
    const Strip strip = {0, width, 0, width, width, kPad};
    arena.rows(in, channels, strip);
    arena.rows(out, channels, strip);
    for (Row& row : scratch) row = arena.row(channels, Conv::kWidth);
    weights = arena.base + arena.used;
    bias = weights + kTaps * (size_t)channels * channels;
  }

  template <class Op>
  Matrix matrix(int taps) const {
    return {weights, bias, channels, channels / Op::kPack, taps};
  }
  Depthwise depthwise(int taps) const { return {weights, bias, taps}; }

  // Elements of one row of all channels.
  double row() const { return (double)channels * width; }
};

// Each runs once and returns how many operations that was: a multiply-add counts two, GELU and LayerNorm
// one for each element.

double fma(Bench& bench) {
  constexpr int kChains = kAccumulators;  // enough to hide the latency
  vf acc[kChains];
  const float* p = bench.in[0].p;
  SM_UNROLL(24)
  for (int i = 0; i < kChains; ++i) acc[i] = load(p + i * VL);
  const vf factor = load(p);
  constexpr int kSteps = 1000;
  for (int step = 0; step < kSteps; ++step) {
    SM_UNROLL(24)
    for (int i = 0; i < kChains; ++i) acc[i] += acc[i] * factor;  // ARM64's sums overwrite the addend
  }
  SM_UNROLL(24)
  for (int i = 0; i < kChains; ++i) store(bench.out[0].p + i * VL, acc[i]);
  return 2.0 * kChains * VL * kSteps;
}

template <class Op>
double product(Bench& bench) {
  matmul<Op, Epilogue::kStore>(bench.matrix<Op>(1), one_tap(bench.in[0]), 0, bench.width, bench.out[0]);
  return 2 * bench.row() * bench.channels;
}

template <class Op>
double conv(Bench& bench) {
  using Conv = RowConv<Op>;
  Conv::template run<Epilogue::kStore>(bench.matrix<Op>(3 * Conv::kProducts), bench.in, bench.scratch,
                                       bench.channels, 0, bench.width, bench.out, bench.in, [](int, int) {});
  return 2 * 9 * Conv::kRows * bench.row() * bench.channels;
}

double gate(Bench& bench) {
  const Depthwise weights = bench.depthwise(9);
  const Row& factor = bench.in[3];
  put_row<Fp32>(bench.out[0], bench.channels, 0, bench.width,
                [&]<int N>(vf(&acc)[2][N], int c, int x) SM_LAMBDA_INLINE {
                  depthwise_3x3<Fp32>(weights, bench.in, acc, c, x);
                  multiply<Fp32>(acc, factor, c, x);
                });
  return 2 * 9 * bench.row();
}

double stripe_across(Bench& bench) {
  stripe_row<Fp32>(bench.depthwise(kStripe), bench.in[0], bench.out[0], bench.channels, 0, bench.width);
  return 2 * kStripe * bench.row();
}

double stripe_down(Bench& bench) {
  const Depthwise weights = bench.depthwise(kStripe);
  for (int c = 0; c < bench.channels; c += 2)
    each_column(0, bench.width, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
      vf upper[2][N], lower[2][N];
      stripe_column_pair<Fp32>(weights, bench.in, upper, lower, c, x);
      for (int v = 0; v < N; ++v) {
        Fp32::put(bench.out[0], c, x + v * VL, upper[0][v], upper[1][v]);
        Fp32::put(bench.out[1], c, x + v * VL, lower[0][v], lower[1][v]);
      }
    });
  return 2 * 2 * kStripe * bench.row();
}

double norm(Bench& bench) {
  layer_norm<Fp32>(bench.in[0], bench.out[0], bench.channels, bench.channels, nullptr, nullptr, 0,
                   bench.width);
  return bench.row();
}

double activation(Bench& bench) {
  const Row in = bench.in[0], out = bench.out[0];  // not read anew after each store
  put_row<Fp32>(out, bench.channels, 0, bench.width,
                [&]<int N>(vf(&acc)[2][N], int c, int x) SM_LAMBDA_INLINE {
                  for (int i = 0; i < 2; ++i)
                    for (int v = 0; v < N; ++v) acc[i][v] = gelu(load(in.at(c + i, x + v * VL)));
                });
  return bench.row();
}

struct Kernel {
  const char* name;
  double (*run)(Bench&);
};

constexpr Kernel kKernels[] = {
    {"fma", fma},
    {"product", product<Fp32>},
    {"conv", conv<Fp32>},
#if defined(SM_HAS_BF16)
    {"product_bf16", product<Bf16>},
    {"conv_bf16", conv<Bf16>},
#endif
    {"gate", gate},
    {"stripe_across", stripe_across},
    {"stripe_down", stripe_down},
    {"layer_norm", norm},
    {"gelu", activation},
};

constexpr int kCount = sizeof kKernels / sizeof *kKernels;

const char* name(int i) { return i < kCount ? kKernels[i].name : nullptr; }

bool run(int kernel, const MicrobenchSize& size, double* operations) {
  struct Job {
    int kernel;
    const MicrobenchSize& size;
    double* operations;  // of each thread; negative: out of memory
  };
  Scratch<double> each(size.threads);
  if (!each.data) return false;
  for (int i = 0; i < size.threads; ++i) each.data[i] = 0;
  Job job = {kernel, size, each.data};
  parallel(
      size.threads,
      [](void* context, int thread, int) {
        const Job& j = *static_cast<Job*>(context);
        Bench bench(j.size.channels, j.size.width);
        double done = bench.memory.data ? 0 : -1;
        for (int i = 0; done >= 0 && i < j.size.repeats; ++i) done += kKernels[j.kernel].run(bench);
        j.operations[thread] = done;
      },
      &job);
  *operations = 0;
  for (int i = 0; i < size.threads; ++i) {
    if (each.data[i] < 0) return false;
    *operations += each.data[i];
  }
  return true;
}

}  // namespace

const MicrobenchTable* microbench_table() {
  static const MicrobenchTable table = {name, run};
  return &table;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
