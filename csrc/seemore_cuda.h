/* The C API of the CUDA part: the whole network on one GPU, and operators, as kernel launches on the caller's
 * stream.
 *
 * The driver is looked for when first needed; the library links to nothing of CUDA.  Memory is the caller's.
 * No call waits for the GPU.  All are safe to call from several threads; a workspace belongs to one forward
 * at a time.  Results depend, to the bit, on nothing but the weights, the input and the GPU's model.
 */
#ifndef SEEMORE_CUDA_H
#define SEEMORE_CUDA_H

#include "seemore.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How many GPUs can be used; SM_ERROR_UNSUPPORTED with the reason where there is none. */
SM_API sm_status sm_cuda_devices(int* count);

/* Compute capability, as 10 major + minor; SM_ERROR_UNSUPPORTED with the reason for a device that cannot be
 * used. */
SM_API sm_status sm_cuda_capability(int device, int* capability);

/* ---- Kernels ---------------------------------------------------------------------------------------------
 *
 * They come from programs: a source, the file csrc/cuda/SOURCE.cu, compiled with options, and perhaps with
 * others that fit it to one network. The caller makes an image (a cubin) of each program that it needs, by
 * nvcc or NVRTC, and loads it before it makes an engine or starts an operator.
 */
typedef void (*sm_cuda_visit)(void* context, const char* source, const char* options, const char* special);

/* Makes the kernels known on the device for the life of the process. `image` may be compiled without the
 * special options. Loading a program again does nothing. */
SM_API sm_status sm_cuda_load(int device, const char* source, const char* options, const char* special,
                              const void* image, int64_t bytes);
SM_API int sm_cuda_is_loaded(int device, const char* source, const char* options, const char* special);

/* ---- Networks ------------------------------------------------------------------------------------------ */

typedef enum sm_cuda_precision {
  SM_CUDA_FP32 = 0, /* every product in float32 */
  SM_CUDA_TF32 = 1, /* operands of matrix products rounded to TensorFloat-32 */
  SM_CUDA_FP16 = 2, /* operands, activations in memory and sums of 1x1 layers in float16 */
  SM_CUDA_BF16 = 3, /* operands and activations in memory in bfloat16 */
} sm_cuda_precision;

typedef enum sm_cuda_pixels {
  SM_CUDA_PIXELS_FP32 = 0,
  SM_CUDA_PIXELS_FP16 = 1,
  SM_CUDA_PIXELS_BF16 = 2,
  SM_CUDA_PIXELS_U8 = 3, /* 0..255; the output is clamped and rounded */
} sm_cuda_pixels;

typedef struct sm_cuda_engine sm_cuda_engine;

/* Calls `visit` with each program of the network on that device, or, where it is -1, on GPUs of that
 * capability. SM_ERROR_UNSUPPORTED for a
 * configuration beyond the engine's limits, named in the message. */
SM_API sm_status sm_cuda_engine_programs(const sm_network* network, sm_cuda_precision precision, int device,
                                         int capability, sm_cuda_visit visit, void* context);

/* Bytes of packed weights on the device, a number as CUDA counts them. */
SM_API sm_status sm_cuda_engine_size(const sm_network* network, sm_cuda_precision precision, int device,
                                     int64_t* bytes);

/* Packs the weights into `host`, from where the caller copies them to `weights` on the device, aligned to 256
 * bytes; they must be there for each forward. `network` may go. The network's programs must be loaded. Free
 * with sm_cuda_engine_destroy(). */
SM_API sm_status sm_cuda_engine_create(const sm_network* network, sm_cuda_precision precision, int device,
                                       void* host, void* weights, sm_cuda_engine** engine);
SM_API void sm_cuda_engine_destroy(sm_cuda_engine* engine);

/* Bytes of device memory that a forward of n images needs to work in. */
SM_API sm_status sm_cuda_engine_workspace(const sm_cuda_engine* engine, int64_t n, int64_t h, int64_t w,
                                          int64_t* bytes);

/* Calls `visit` with each part of the workspace: its name, where it begins, in bytes, and how long it is. */
typedef void (*sm_cuda_visit_part)(void* context, const char* name, int64_t at, int64_t bytes);
SM_API sm_status sm_cuda_engine_parts(const sm_cuda_engine* engine, int64_t n, int64_t h, int64_t w,
                                      sm_cuda_visit_part visit, void* context);

typedef struct sm_cuda_forward_params {
  const sm_cuda_engine* engine;
  const void* input;     /* [N, in_chans, H, W] on the engine's device, as are the following */
  void* output;          /* [N, in_chans, H * scale, W * scale] */
  sm_cuda_pixels pixels; /* of both */
  int64_t n, h, w;       /* n at least 1; h and w at least 4^recursive */
  void* workspace;       /* aligned to 256 bytes */
  int64_t workspace_bytes;
  void* stream;     /* CUstream */
  int64_t launches; /* how many kernels to start, to see what they leave in the workspace; 0: all */
} sm_cuda_forward_params;

/* Launches the network; may be captured into a CUDA graph. Each image is routed on its own. */
SM_API sm_status sm_cuda_engine_forward(const sm_cuda_forward_params* params);

/* ---- Tiles of an image -----------------------------------------------------------------------------------
 *
 * The forward in phases over crops of an image, with routing and calibration of the whole, as
 * sm_engine_tile() of seemore.h: every pixel of a tile comes out to the bit as in a forward of the image. CP:
 * C rounded up; RP: R likewise.
 */
#define SM_CUDA_TILE_STEP 32 /* crops and tiles begin at multiples of it; so tiles end, or with the image */

typedef struct sm_cuda_tile_layout {
  int channels, ranks;    /* CP, RP */
  int router_h, router_w; /* the image's tiles whose logits `partial` has */
  int map_element;        /* bytes of a value of `map` */
  int64_t workspace;      /* bytes, for any phase of the crop */
} sm_cuda_tile_layout;

typedef struct sm_cuda_tile_params {
  const sm_cuda_engine* engine;
  sm_phase phase; /* what each computes, and from what: seemore.h; sums are `partial`, aggregated is `low` */
  int group;
  int64_t full_h, full_w;  /* the image */
  int64_t top, left, h, w; /* the crop: 7 + k / 2 pixels more than the tile, or to the image's end */
  void* stream;            /* [h, w, CP]: right for the tile and two pixels around it once a phase is done */
  const void* input;       /* [in_chans, h, w] */
  void* output;            /* [in_chans, h * scale, w * scale]: right for the tile */
  sm_cuda_pixels pixels;
  float* low;           /* SM_PHASE_POOL, SM_PHASE_GROUP: [h / 4, w / 4, CP] of the crop, right for the tile;
                           SM_PHASE_CALIBRATE: of the image */
  float* partial;       /* likewise [h / router_h, w / router_w, E], both rounded up */
  void* map;            /* [full_h / 4^recursive, full_w / 4^recursive, RP] */
  float *weight, *bias; /* [RP], [CP]: the image's routing */
  void* workspace;      /* aligned to 256 bytes, as are stream, map and low */
  int64_t workspace_bytes;
  void* cuda_stream; /* CUstream */
} sm_cuda_tile_params;

/* Of a crop of h x w. */
SM_API sm_status sm_cuda_engine_tile_layout(const sm_cuda_engine* engine, int64_t full_h, int64_t full_w,
                                            int64_t h, int64_t w, sm_cuda_tile_layout* layout);

/* Launches one phase of one tile. Pointers that the phase does not name may be NULL. */
SM_API sm_status sm_cuda_engine_tile(const sm_cuda_tile_params* params);

/* ---- Graphs --------------------------------------------------------------------------------------------
 *
 * What the calling thread launches on a stream between capture_begin and capture_end becomes a graph and does
 * not run; other threads and their captures are left alone, as is all that PyTorch keeps of captures.
 * capture_end must follow in any case. A graph may be destroyed while it runs.
 */
typedef struct sm_cuda_graph sm_cuda_graph;
SM_API sm_status sm_cuda_capture_begin(int device, void* stream);
SM_API sm_status sm_cuda_capture_end(int device, void* stream, sm_cuda_graph** graph);
SM_API sm_status sm_cuda_graph_launch(const sm_cuda_graph* graph, void* stream);
SM_API void sm_cuda_graph_destroy(sm_cuda_graph* graph);

/* ---- Operators -----------------------------------------------------------------------------------------*/

/* Their programs, for images of `pixels`, which must not be uint8. */
SM_API void sm_cuda_op_programs(sm_cuda_pixels pixels, sm_cuda_visit visit, void* context);

/* Memory on the device; address NULL: not wanted. */
typedef struct sm_cuda_buffer {
  void* address;
  int64_t bytes;
} sm_cuda_buffer;

/* Those of seemore_fast/ops that csrc/cuda/ops has, by name, as sm_op() has the CPU's: with the same order of
 * tensors.  Images are [N, C, H, W] of `pixels`, which must not be uint8; all else is float32. */
typedef struct sm_cuda_op_params {
  const char* op;
  const sm_cuda_buffer* inputs;
  const sm_cuda_buffer* saved;   /* backward: what the forward gave beside the result */
  const sm_cuda_buffer* outputs; /* forward: result, then what the backward needs; backward: one per input */
  int input_count, saved_count, output_count;
  int backward;
  sm_cuda_buffer grad; /* backward: of the result */
  sm_cuda_pixels pixels;
  int64_t n, c, h, w;
  int64_t kernel;       /* striped_conv2d: taps, odd, to 63 */
  int gelu;             /* striped_conv2d */
  int64_t rank;         /* low_rank_experts, mix_experts: to 240 in all */
  int64_t experts;      /* mix_experts: to 64 */
  const int64_t* ranks; /* mix_experts: [experts], their sum is `rank`; else NULL */
  int64_t topk;         /* mix_experts */
  int device;
  void* stream;    /* CUstream */
  void* workspace; /* on the device, aligned to 256 bytes */
  int64_t workspace_bytes;
} sm_cuda_op_params;

/* SM_OK, or SM_ERROR_UNSUPPORTED with the reason, if the kernels cannot do it. Sizes alone are looked at. */
SM_API sm_status sm_cuda_op_takes(const sm_cuda_op_params* params);

/* Bytes of device memory to work in; of outputs only those that are NULL matter. */
SM_API sm_status sm_cuda_op_workspace(const sm_cuda_op_params* params, int64_t* bytes);

/* Launches the operator's kernels; may be captured into a CUDA graph. */
SM_API sm_status sm_cuda_op(const sm_cuda_op_params* params);

#ifdef __cplusplus
}
#endif
#endif /* SEEMORE_CUDA_H */
