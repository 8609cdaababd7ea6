// A call of an operator: its tensors, memory to work in, and the kernels that it starts.
#pragma once

#include <string>

#include "cuda/launch.h"
#include "cuda/ops/sums.h"
#include "seemore_cuda.h"

namespace seemore {
namespace cuda {

constexpr int kMostTaps = 63;    // what fits into 99 KB of shared memory, in both directions
constexpr int kMostRanks = 240;  // likewise

Program op_program(const char* source, sm_cuda_pixels pixels);

class Call {
 public:
  // `counting`: only how much memory it works in; nothing is started.
  Call(const sm_cuda_op_params& params, bool counting);

  const sm_cuda_op_params& params;
  const int channels, plane;
  const int64_t planes;  // of all images

  const float* in(int i) const { return static_cast<const float*>(params.inputs[i].address); }
  const float* saved(int i) const { return static_cast<const float*>(params.saved[i].address); }
  const void* grad() const { return params.grad.address; }
  float* out(int i) const { return static_cast<float*>(params.outputs[i].address); }
  // Whether four elements of an image, from each fourth one on, can be read at once.
  bool vectors(const void* image) const { return reinterpret_cast<uintptr_t>(image) % 16 == 0; }
  bool wants(int first, int last) const;  // any of those outputs

  float* floats(size_t count);  // to work in, not cleared
  void* image();                // the same, for one more of the call's images

  // Blocks of an image or plane, each for some pixels; of `few`, among `others` such, about 528 in all, for
  // what they sum up goes through memory.
  int tiles(int pixels) const { return (plane + pixels - 1) / pixels; }
  int few(int pixels, int64_t others) const;

  // Starts a kernel of ops/<source>.cu, unless there are no blocks.
  template <class Params>
  void start(const char* source, const char* name, const Params& p, int64_t x, int64_t y, size_t shared) {
    if (counting_ || error_ || x == 0 || y == 0) return;
    Kernel<Params> kernel;
    error_ = find_kernel(params.device, op_program(source, params.pixels), name, &kernel.function);
    if (!error_) error_ = kernel.start(p, {(unsigned)x, (unsigned)y}, shared, params.stream);
  }

  // Adds up from[image][part][width] over the parts; pieces follow by `piece`.
  class Sums;
  Sums sum(const float* from, int64_t images, int64_t parts, size_t width);

  size_t used() const { return used_; }  // bytes to work in
  const char* error() const { return error_; }

 private:
  void* room(size_t bytes);

  bool counting_;
  size_t used_ = 0;
  const char* error_ = nullptr;
};

// Starts when it goes.
class Call::Sums {
 public:
  Sums(Call& call, const SumParams& params) : call_(call), params_(params) {}
  Sums(const Sums&) = delete;
  ~Sums();

  // Unless `to` is null.
  Sums& piece(float* to, size_t offset, size_t rows, size_t columns, size_t row_step, size_t column_step);
  Sums& piece(float* to, size_t offset, size_t count) { return piece(to, offset, 1, count, count, 1); }

 private:
  Call& call_;
  SumParams params_;
};

}  // namespace cuda
}  // namespace seemore
