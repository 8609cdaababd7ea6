// The four precisions: how activations are stored and how warps multiply matrices in each.
//
// A policy P has Element (an activation in memory), Chunk (8 channels of 16 pixels in the registers of a
// warp: lane 4 g + t holds channels 2t, 2t + 1 of pixels g and g + 8) and
//   pack(c)          a chunk from accumulators, whose layout is the same: results chain into the next product
//   load_pair(p), store_pair(p, v)        two channels in memory
//   gelu(c)                               pack(GELU(c))
//   load<KT>(a, memory, stride, pixel)    KT chunks of the pixels pixel(0) .. pixel(15) from shared memory
//   read<KT, stride>(a, memory)           those of 16 pixels one after another, the first at `memory`
//   write<NT, stride>(memory, a)          and back
//   read_columns<..>(..), write_columns<..>(..)  the same in 16 bit, of what will be right operands
//   normalise(a, dim, 1 / dim)            LayerNorm's statistics applied: (v - mean) / sqrt(variance + 1e-6)
//   normalise(a, dim, 1 / dim, w, b)      and its affine part, of which a lane has its channels' in pairs
//   Sum                                   a lane's 4 elements of what 1x1 layers add up: float[4], but in
//                                         fp16 unsigned[2], pairs of halves that products round to
//   SumBias<NT>::fetch(b), fetch_floats(b, 0)  the bias of such a layer as pack.cc has it beside the weights,
//                                         or as floats; Bias<NT> of one with sums of float32
//   begin(acc, bias), multiply(acc, a, w) acc = bias; acc[m] += a[m] W: 16 MT pixels, 8 KT channels to 8 NT
//   multiply<MT, NT, KT>(acc, a, w, tiles, first)  the same, NT tiles of 8 outputs from `first` on of more in
//                                         memory (wide networks)
// Weights lie in the order of the products (pack.cc), a lane's share in aligned loads of 16 bytes.
//
// Away from matrix products a policy computes on words, registers of one channel (float32) or two, and on
// vectors of 16 bytes in memory: fma(x, y, z), add, mul, keep(x, mask), splat(float), gelu_word.
#pragma once

#include "cuda/float16.cuh"
#include "cuda/float32.cuh"

namespace seemore {
namespace cuda {

// acc = bias + a W.
template <class P, int MT, int NT, int KT>
SM_DEVICE void dense(typename P::Sum (&acc)[MT][NT], const typename P::Chunk (&a)[MT][KT],
                     const Matrix<P, NT, KT>& w, const typename P::template SumBias<NT>& bias) {
  P::begin(acc, bias);
  P::multiply(acc, a, w);
}

// Of a matrix that is fetched where it is needed, the inputs at a time, in chunks: what registers hold beside
// pixels and sums.
template <class P, int NT, int KT>
constexpr int kInputsAtOnce = P::kWordsPerTile * NT * KT <= 100 || KT % 2 ? KT
                              : P::kWordsPerTile * NT * KT <= 200         ? KT / 2
                                                                          : KT / 4;

// acc += a W, W in memory.
template <class P, int MT, int NT, int KT>
SM_DEVICE void multiply_fetched(typename P::Sum (&acc)[MT][NT], const typename P::Chunk (&a)[MT][KT],
                                const void* weight) {
  constexpr int K = kInputsAtOnce<P, NT, KT>;
  SM_NO_UNROLL
  for (int part = 0; part < KT / K; ++part) {  // unrolled, ptxas would fetch all of W ahead
    Matrix<P, NT, K> w;
    w.fetch(weight, part);
    typename P::Chunk inputs[MT][K];
    SM_UNROLL
    for (int m = 0; m < MT; ++m) SM_UNROLL
    for (int k = 0; k < K; ++k) {
      inputs[m][k] = a[m][k];
      SM_UNROLL
      for (int other = K; other < KT; other += K)
        if (part == other / K) inputs[m][k] = a[m][other + k];
    }
    P::multiply(acc, inputs, w);
  }
}

// Whether sums that are P::Sum are float16.
template <class P>
constexpr bool kHalfSums = sizeof(typename P::Sum) < 4 * sizeof(float);

// Whether the registers of two blocks hold all channels of a warp's pixels: input, hidden layer and output.
template <class P, int NT>
constexpr bool kIsSlim = sizeof(typename P::Element) == 2 && NT <= 6;

// For __launch_bounds__, the blocks of a kernel that a multiprocessor is to hold: 2 leave a thread 128
// registers, 1 all 255 (plan.cc counts on it), as one of twice the threads does. tests/cuda/test_build.py
// watches over spills.
template <class P, int NT>
constexpr int kBlocksOfDense = kIsSlim<P, NT> ? 2 : 1;
template <class P, int NT>
constexpr int kMostThreads = kIsSlim<P, NT> ? 2 * kThreads : kThreads;

}  // namespace cuda
}  // namespace seemore
