// An operator's file, <op>.cu, has its kernels, and behind SM_HOST what the host starts in which order: that
// part is compiled with the library, the kernels by nvcc, NVRTC or cudasim.
//
// Images are planar, [N, C, H, W], float32, float16 or bfloat16; weights, partial sums and gradients of
// weights are float32.  A block takes the tiles `share`, share + shares, .. of an image or plane, and has its
// own place for what it sums up: so sums have one order, whatever the GPU.
#pragma once

#include "cuda/common.h"

#ifdef SM_HOST
#include "cuda/ops/call.h"
#define SM_HOST_DEVICE
#else
#include "cuda/entry.cuh"
#include "cuda/ops/element.cuh"
#define SM_HOST_DEVICE SM_DEVICE
#endif
