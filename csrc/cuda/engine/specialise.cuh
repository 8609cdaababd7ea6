// Kernels for one network alone: what is known of it when they are compiled takes the place of parameters.
//
// SM_SPECIAL, where it is defined, comes with those of these macros that the file at hand reads (kernels.cc).
#pragma once

#include "cuda/engine/params.h"
#include "cuda/entry.cuh"

#ifdef SM_SPECIAL

// 0: a parameter still.
#ifndef SM_DIM
#define SM_DIM 0
#endif
#ifndef SM_CHANNELS
#define SM_CHANNELS 0
#endif
#ifndef SM_IN_CHANS
#define SM_IN_CHANS 0
#endif
#ifndef SM_SCALE
#define SM_SCALE 0
#endif
#ifndef SM_OUTPUTS
#define SM_OUTPUTS 0
#endif
#ifndef SM_EXPERTS
#define SM_EXPERTS 0
#endif
#ifndef SM_TOPK
#define SM_TOPK 0
#endif
#ifndef SM_RANKS
#define SM_RANKS 0
#endif
#ifndef SM_KERNEL
#define SM_KERNEL 0
#endif
#ifndef SM_WIDTH
#define SM_WIDTH 0
#endif

namespace seemore {
namespace cuda {

SM_DEVICE void known(int& parameter, int value) {
  if (value) parameter = value;
}

SM_DEVICE void specialise(HeadParams& p) {
  known(p.in_chans, SM_IN_CHANS);
  known(p.channels, SM_CHANNELS);
}

SM_DEVICE void specialise(RmeParams& p) {
  known(p.at.dim, SM_DIM);
  known(p.experts, SM_EXPERTS);
  known(p.logits.tiles, (SM_EXPERTS + 3) / 4);
  known(p.conv.tiles, SM_WIDTH);
  known(p.to_x.tiles, SM_WIDTH);
  known(p.to_k.tiles, SM_WIDTH);
  known(p.proj.tiles, SM_WIDTH);
  known(p.expert_b.tiles, SM_RANKS / 8);
  known(p.expert_c.tiles, SM_RANKS / 8);
}

SM_DEVICE void specialise(CoarseParams& p) {
  known(p.mix.experts, SM_EXPERTS);
  known(p.mix.topk, SM_TOPK);
  known(p.mix.ranks, SM_RANKS);
}

SM_DEVICE void specialise(FfnParams& p) {
  known(p.at.dim, SM_DIM);
  known(p.g.tiles, SM_WIDTH);
  known(p.a.tiles, SM_WIDTH);
  known(p.out_weight.tiles, SM_WIDTH);
  known(p.mix.ranks, SM_RANKS);
  known(p.mix.expert_out.tiles, SM_WIDTH);
}

SM_DEVICE void specialise(SmeParams& p) {
  known(p.at.dim, SM_DIM);
  known(p.kernel, SM_KERNEL);
  known(p.to_q.tiles, SM_WIDTH);
  known(p.to_v.tiles, SM_WIDTH);
  known(p.proj.tiles, SM_WIDTH);
}

SM_DEVICE void specialise(ConvParams& p) {
  known(p.at.dim, SM_DIM);
  known(p.conv.tiles, SM_WIDTH);
}

SM_DEVICE void specialise(UpsampleParams& p) {
  known(p.at.dim, SM_DIM);
  known(p.in_chans, SM_IN_CHANS);
  known(p.scale, SM_SCALE);
  known(p.channels, 8 * SM_WIDTH);
  known(p.conv.tiles, SM_OUTPUTS);
}

}  // namespace cuda
}  // namespace seemore

#endif
