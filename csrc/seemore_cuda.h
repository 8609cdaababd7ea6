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
  SM_CUDA_FP16 = 2, /* operands and activations in memory in float16, sums in float32 */
  SM_CUDA_BF16 = 3, /* likewise bfloat16 */
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

typedef struct sm_cuda_forward_params {
  const sm_cuda_engine* engine;
  const void* input;     /* [N, in_chans, H, W] on the engine's device, as are the following */
  void* output;          /* [N, in_chans, H * scale, W * scale] */
  sm_cuda_pixels pixels; /* of both */
  int64_t n, h, w;       /* n at least 1; h and w at least 4^recursive */
  void* workspace;       /* aligned to 256 bytes */
  int64_t workspace_bytes;
  void* stream; /* CUstream */
} sm_cuda_forward_params;

/* Launches the network; may be captured into a CUDA graph. Each image is routed on its own. */
SM_API sm_status sm_cuda_engine_forward(const sm_cuda_forward_params* params);

/* ---- Operators -----------------------------------------------------------------------------------------*/

/* Their programs, for images of `pixels`, which must not be uint8. */
SM_API void sm_cuda_op_programs(sm_cuda_pixels pixels, sm_cuda_visit visit, void* context);

/* Memory on the device; address NULL (and 0 bytes): not given, or not wanted. */
typedef struct sm_cuda_buffer {
  void* address;
  int64_t bytes;
} sm_cuda_buffer;

/* One kernel of the operators in seemore_fast/ops. Images (x, k, grad, out) are [N, C, H, W] of `pixels`,
 * which must not be uint8; all else is float32, in the shapes that csrc/cuda/ops/params.h gives. `partial`
 * must hold zeros before.
 *
 *   kernel             inputs                                                   outputs
 *   stripes            x, weight_h, bias_h, weight_v, bias_v, grad or NULL      out
 *   stripes_backward   x, weight_h, bias_h, weight_v, bias_v, grad              grad_x?, partial?
 *   experts            x, k, b_weight, b_bias, c_weight, c_bias, a_weight, a_bias, weights or NULL    out
 *   experts_backward   the same, grad                                           grad_x?, grad_k?, partial?
 *   pool               x                                                        partial [N, C, shares]
 *   route              partial, router                                          weights, mean
 *   route_backward     weights, mean, router, a_bias, sums                      offset, by_image
 */
typedef struct sm_cuda_op_params {
  const char* kernel;
  const sm_cuda_buffer* inputs;
  const sm_cuda_buffer* outputs; /* those with ? may be NULL */
  int input_count, output_count;
  sm_cuda_pixels pixels;
  int64_t n, c, h, w;
  int64_t shares;       /* blocks that share an image's or plane's sums */
  int64_t taps;         /* stripes: odd, to 63 */
  int gelu;             /* stripes */
  const int64_t* ranks; /* of each expert: to 64 experts, 240 ranks in all */
  int64_t experts, topk;
  int device;
  void* stream; /* CUstream */
} sm_cuda_op_params;

/* Launches the kernel; may be captured into a CUDA graph. */
SM_API sm_status sm_cuda_op(const sm_cuda_op_params* params);

#ifdef __cplusplus
}
#endif
#endif /* SEEMORE_CUDA_H */
