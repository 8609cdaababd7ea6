/* The C API of seemore-fast's native library: plain structs, one entry point per operation.
 *
 * Every tensor is float32, contiguous, planar [N, C, H, W], in memory of the caller; outputs must not overlap
 * inputs.  Every entry point returns SM_OK, or a status after setting sm_last_error(); on an error nothing
 * was written.  All are safe to call from several threads.  Results are bitwise equal for any thread count.
 */
#ifndef SEEMORE_H
#define SEEMORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define SM_API __declspec(dllexport)
#else
#define SM_API __attribute__((visibility("default")))
#endif

typedef enum sm_status {
  SM_OK = 0,
  SM_ERROR_ARGUMENT = 1,    /* a parameter out of range, named in the message */
  SM_ERROR_UNSUPPORTED = 2, /* this CPU, or this build, cannot do what was asked */
  SM_ERROR_MEMORY = 3,      /* scratch memory could not be allocated */
  SM_ERROR_INTERRUPTED = 4, /* the caller's poll function asked to stop */
  SM_ERROR_DEVICE = 5,      /* a call of the CUDA runtime failed */
} sm_status;

/* What went wrong in this thread's last failing call; "" before the first. Valid until the next failure. */
SM_API const char* sm_last_error(void);

/* ---- Instruction sets ------------------------------------------------------------------------------------
 *
 * Kernels are compiled for "v2", "v3", "v4" (x86-64 levels) and "v4bf16" (v4 with AVX512-BF16), on ARM64 for
 * "neon" and "neonbf16" (with BF16), elsewhere as "portable".  The best that CPU and operating system support
 * is taken, unless the environment variable SEEMORE_ISA names another.
 */

/* Name of the instruction set in use. NULL (and sm_last_error) if SEEMORE_ISA names none that works here. */
SM_API const char* sm_isa(void);

/* Name of the i-th usable instruction set, from the oldest to the newest; NULL past the last. */
SM_API const char* sm_usable_isa(int i);

/* From now on use the named one, in the whole process; NULL: choose again as at the start. For tests. */
SM_API sm_status sm_set_isa(const char* name);

/* ---- Operators -------------------------------------------------------------------------------------------
 *
 * Those of seemore_fast/ops, forward and backward, by name; docs/operators.md has their formulas and the
 * order of their tensors.  Weights are laid out as PyTorch's convolutions keep them, so a 1x1 convolution is
 * a [rows, columns] matrix; several experts' are concatenated along the ranks.  NaN propagates; of experts
 * that are equally probable the first is taken.  Gradients of weights are added in the order of the images.
 */
typedef struct sm_op_params {
  const char* op;             /* "rme", "sme", "gated_ffn", ... */
  const float* const* inputs; /* its tensors, in the order of its Python signature: images, then weights */
  const float* grad;          /* [n, c, h, w], of the result; NULL: forward */
  const float* const* saved;  /* backward: what the forward gave beside the result, in its order */
  float* const* outputs;      /* forward: result, then what the backward needs; backward: one per input,
                               * NULL where its gradient is not asked for */
  int64_t n, c, h, w;         /* n >= 0; the others >= 1 */
  int64_t kernel;             /* striped_conv2d, striped_attention, sme: taps of the stripes, odd */
  int64_t rank;               /* low_rank_experts: >= 1 */
  int64_t experts;            /* mix_experts, rme */
  const int64_t* ranks;       /* [experts], each >= 1 */
  int64_t topk;               /* 1 .. experts */
  int64_t recursive;          /* calibrate, rme; h and w at least 4^recursive */
  int gelu;                   /* striped_conv2d: GELU after the stripes */
  int shuffle;                /* rme; c even */
  float eps;                  /* layer_norm2d, rme, sme: >= 0 */
  int threads;                /* >= 1: the largest number to use, the caller's included */
} sm_op_params;

SM_API sm_status sm_op(const sm_op_params* params);

/* The whole network as one differentiable operator: every image by itself, the gradients of weights added in
 * an order that depends on nothing but n.  inputs: the image [n, in_chans, h, w], then the weights in the
 * order of the official state dict.  outputs: forward, [n, in_chans, h * scale, w * scale], then what the
 * backward needs, of each layer [n, 5 f + (experts + c, up to a multiple of 16)], and behind them [n, 2 f],
 * where f is c, up to a multiple of 4, times h, times w, up to a multiple of 16; backward, as ever one per
 * input.  `grad` has the shape of the result. */
typedef struct sm_network_op_params {
  sm_op_params op; /* op, rank and gelu are not looked at; c: C */
  int64_t inputs;  /* how many there are, the image included */
  int64_t layers, in_chans, scale;
  float img_range;
  const float* mean; /* [in_chans] */
  int bf16; /* 1: the layers' products, but the experts', of operands in bfloat16, added in float32 like all
             * else, where the instruction set in use has such; 0, or elsewhere: float32 */
} sm_network_op_params;

SM_API sm_status sm_network_op(const sm_network_op_params* params);

/* ---- The whole network -----------------------------------------------------------------------------------
 *
 * Weights come folded (seemore_fast/network/fold.py): shuffle, LayerNorm's affine part and the projection
 * after the experts are already inside.  C: channels; R: sum of the experts' ranks; E: experts; k: global
 * kernel.
 */

/* A weight, of the shape noted where it stands, and its bias, of that shape's first dimension. */
typedef struct sm_layer {
  const float *weight, *bias;
} sm_layer;

typedef struct sm_stripes_weights {
  sm_layer h, v; /* [C, k]: depthwise 1 x k, then k x 1 */
} sm_stripes_weights;

typedef struct sm_calibrate_weights {
  sm_layer aggregate; /* [C, 4, 4] */
  sm_layer conv;      /* [C, 3, 3] */
  sm_layer proj;      /* [R, C] */
} sm_calibrate_weights;

typedef struct sm_mixture_weights {
  const float* router; /* [E, C] */
  sm_layer b, c;       /* [R, C] */
  sm_layer out;        /* [C, R]: P A_e side by side; bias [E, C]: P a_e */
} sm_mixture_weights;

typedef struct sm_ffn_weights {
  sm_layer a, g; /* [C, C]: the two halves of fn_1 */
  sm_layer gate; /* [C, 3, 3] */
  sm_layer out;  /* [C, C] */
} sm_ffn_weights;

typedef struct sm_rme_weights {
  sm_layer norm;              /* [C]: affine part of the first LayerNorm */
  sm_layer conv;              /* [C, C, 3, 3] */
  sm_layer to_x, to_k;        /* [C, C] */
  sm_stripes_weights stripes; /* k = 3 */
  sm_calibrate_weights calibrate;
  sm_mixture_weights mixture;
  sm_layer proj; /* [C, C] */
  sm_ffn_weights ffn;
} sm_rme_weights;

typedef struct sm_sme_weights {
  sm_layer to_q, to_v; /* [C, C] */
  sm_stripes_weights stripes;
  sm_layer proj; /* [C, C] */
  sm_ffn_weights ffn;
} sm_sme_weights;

typedef struct sm_group_weights {
  sm_rme_weights rme;
  sm_sme_weights sme;
} sm_group_weights;

/* What stands before the groups and after them. */
typedef struct sm_ends_weights {
  const float* mean;  /* [in_chans] */
  sm_layer head;      /* [C, in_chans, 3, 3] */
  sm_layer norm;      /* [C] */
  sm_layer conv_2;    /* [C, C, 3, 3] */
  sm_layer upsampler; /* [in_chans * scale^2, C, 3, 3] */
} sm_ends_weights;

typedef struct sm_network {
  int scale, in_chans, num_experts, num_layers, dim, kernel, recursive, topk;
  const int* ranks; /* [E] */
  float img_range;
  sm_ends_weights ends;
  const sm_group_weights* groups; /* [num_layers] */
} sm_network;

typedef struct sm_engine sm_engine;

/* Packs the weights (copies: `network` may go).  bf16 != 0: matrix operands in bfloat16, accumulation and all
 * else in float32; SM_ERROR_UNSUPPORTED where the instruction set in use lacks it.  Free with
 * sm_engine_destroy(). */
SM_API sm_status sm_engine_create(const sm_network* network, int bf16, sm_engine** engine);
SM_API void sm_engine_destroy(sm_engine* engine);

/* Called every few rows from the thread that called sm_engine_forward; non-zero stops the forward. */
typedef int (*sm_poll)(void* context);

typedef struct sm_forward_params {
  const sm_engine* engine;
  const void* input; /* [N, in_chans, H, W] */
  void* output;      /* [N, in_chans, H * scale, W * scale] */
  int u8;            /* 0: float32, nominally 0..1; 1: uint8, the output clamped and rounded */
  int64_t n, h, w;   /* h and w at least 4^recursive */
  int threads;
  int64_t workspace_limit; /* bytes, 0: none; narrower strips and fewer threads are used to keep to it */
  void* workspace;         /* sm_engine_workspace() bytes */
  int64_t workspace_bytes;
  sm_poll poll; /* may be NULL */
  void* poll_context;
} sm_forward_params;

/* Bytes of workspace that a forward with these parameters needs (pointers are not looked at).
 * SM_ERROR_MEMORY where workspace_limit is below the least possible, named in the message. */
SM_API sm_status sm_engine_workspace(const sm_forward_params* params, int64_t* bytes);

/* The network over every image of the batch, each routed on its own: one after the other, small ones at once.
 * After SM_ERROR_INTERRUPTED the output is undefined. */
SM_API sm_status sm_engine_forward(const sm_forward_params* params);

/* ---- Tiles of an image -----------------------------------------------------------------------------------
 *
 * The network in phases over crops of an image, with routing and calibration of the whole: docs/tiling.md.
 * C' is C rounded up to 4, R' likewise; w' is w rounded up to 16.  A map of the whole image is
 * [map_h][channels][p], map_h = full_h / 4^recursive, map_w likewise, p = map_w rounded up to 16, plus 32;
 * column 0 is at 16, the padding zero.
 */

typedef enum sm_phase {
  SM_PHASE_HEAD = 0,      /* input -> stream */
  SM_PHASE_POOL = 1,      /* stream -> sums, the tile's part of aggregated: first half of `group` */
  SM_PHASE_CALIBRATE = 2, /* aggregated -> map, both of the whole image (of the tile, any will do) */
  SM_PHASE_GROUP = 3,     /* stream, map, experts -> stream: all of `group` */
  SM_PHASE_TAIL = 4,      /* stream, input -> output */
} sm_phase;

typedef struct sm_tile_params {
  const sm_engine* engine;
  sm_phase phase;
  int group;
  int64_t full_h, full_w;  /* the image */
  int64_t top, left, h, w; /* the crop; top and left are multiples of 4 */
  int64_t y0, y1, x0, x1;  /* the tile within the crop: it begins at multiples of 4, and of 4^recursive in the
                              image; and ends there, or with the image.  The crop has 7 + k / 2 pixels more on
                              each side, rounded up to 4, or ends with the image. */
  float* stream;        /* [h][C'][w'], right for the tile and five pixels around it once a phase is done */
  const void* input;    /* [in_chans, h, w] */
  void* output;         /* [in_chans, (y1 - y0) * scale, (x1 - x0) * scale] */
  int u8;               /* as in sm_forward_params */
  double* sums;         /* [C]: of the router's features over the tile */
  float* aggregated;    /* a map of C' channels */
  float* map;           /* a map of R' channels */
  const int* experts;   /* [topk], and their weights: the image's routing */
  const float* weights; /* [topk] */
  int threads;
  void* workspace; /* sm_engine_tile_workspace() bytes, for any phase */
  int64_t workspace_bytes;
  sm_poll poll; /* may be NULL */
  void* poll_context;
} sm_tile_params;

SM_API sm_status sm_engine_tile_workspace(const sm_tile_params* params, int64_t* bytes);

/* One phase of one tile.  Pointers that the phase does not name may be NULL. */
SM_API sm_status sm_engine_tile(const sm_tile_params* params);

/* ---- Measuring -------------------------------------------------------------------------------------------
 *
 * The engine's kernels one by one, on rows that stay in the cache, for a caller that holds the watch.
 */

/* Name of the i-th kernel of the instruction set in use; NULL past the last, or where there is none in use.
 */
SM_API const char* sm_kernel_name(int i);

typedef struct sm_run_kernel_params {
  const char* kernel; /* "fma": multiply-adds in registers, the processor's peak; the rest as in the engine */
  int channels;       /* multiple of 4 */
  int width;          /* columns of a row, multiple of 16 */
  int repeats;        /* of each thread, >= 1 */
  int threads;        /* each on rows of its own, >= 1 */
} sm_run_kernel_params;

/* `operations`: how many were done; a multiply-add counts two, "gelu" and "layer_norm" one per element. */
SM_API sm_status sm_run_kernel(const sm_run_kernel_params* params, double* operations);

#ifdef __cplusplus
}
#endif
#endif /* SEEMORE_H */
