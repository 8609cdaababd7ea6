// sm_cuda_op: one kernel of the operators, from addresses and sizes to its launch.
#include <cstring>
#include <string>

#include "cuda/launch.h"
#include "cuda/ops/params.h"
#include "seemore_cuda.h"
#include "status.h"

using namespace seemore;
using namespace seemore::cuda;

namespace {

Program program_of(const char* source, sm_cuda_pixels pixels) {
  constexpr const char* kTypes[] = {"Float32", "Float16", "BFloat16"};
  return {std::string("ops/") + source, std::string("-DSM_TYPE=") + kTypes[pixels], ""};
}

struct Run {
  const sm_cuda_op_params& params;
  sm_status status = SM_ERROR_ARGUMENT;

  float* in(int i) const { return static_cast<float*>(params.inputs[i].address); }
  float* out(int i) const { return static_cast<float*>(params.outputs[i].address); }
  int channels() const { return (int)params.c; }
  int plane() const { return (int)(params.h * params.w); }
  int shares() const { return (int)params.shares; }

  bool is(const char* name, int inputs, int outputs) const {
    return strcmp(params.kernel, name) == 0 && params.input_count == inputs && params.output_count == outputs;
  }

  template <class Params>
  void start(const char* source, const char* name, const Params& p, Grid grid, size_t shared) {
    Kernel<Params> kernel;
    const char* error = find_kernel(params.device, program_of(source, params.pixels), name, &kernel.function);
    if (!error) error = kernel.start(p, grid, shared, params.stream);
    status = error ? fail(SM_ERROR_DEVICE, "CUDA: %s", error) : SM_OK;
  }

  Grid for_planes() const { return {(unsigned)(params.n * params.c * params.shares), 1}; }
  Grid for_images() const { return {(unsigned)params.n, 1}; }

  int ranks(int (&first)[kMostExperts + 1]) const {
    first[0] = 0;
    for (int64_t e = 0; e < params.experts; ++e) first[e + 1] = first[e] + (int)params.ranks[e];
    return first[params.experts];
  }

  void stripes(bool backward) {
    const StripesParams p = {in(0),      in(1),           in(2),         in(3),
                             in(4),      in(5),           out(0),        backward ? out(1) : nullptr,
                             channels(), (int)params.h,   (int)params.w, (int)params.taps,
                             shares(),   params.gelu != 0};
    start("striped_conv2d", backward ? "stripes_backward" : "stripes", p, for_planes(),
          stripes_shared(p.taps, backward));
  }

  void experts(bool backward) {
    ExpertsParams p = {};
    p.x = in(0), p.k = in(1);
    p.b_weight = in(2), p.b_bias = in(3), p.c_weight = in(4), p.c_bias = in(5);
    p.a_weight = in(6), p.a_bias = in(7), p.weights = in(8);
    p.out = out(0);
    if (backward) p.grad = in(9), p.grad_k = out(1), p.partial = out(2);
    p.channels = channels();
    p.plane = plane();
    p.experts = (int)params.experts;
    p.rank = ranks(p.first);
    const bool small = experts_shared(p.rank, 128, backward) > (96 << 10);
    const size_t shared = experts_shared(p.rank, small ? 32 : 128, backward);
    const Grid grid = {(unsigned)params.shares, (unsigned)params.n};
    const std::string name = std::string("experts") + (backward ? "_backward" : "") + (small ? "_small" : "");
    start("experts", name.c_str(), p, grid, shared);
  }

  void pool() {
    start("router", "pool", PoolParams{in(0), out(0), plane(), shares()}, for_planes(),
          kWarps * sizeof(float));
  }

  void route() {
    const RouteParams p = {
        in(0), in(1), out(0), out(1), channels(), plane(), shares(), (int)params.experts, (int)params.topk};
    start("router", "route", p, for_images(), route_shared(p.channels, p.experts));
  }

  void route_backward() {
    RouteBackwardParams p = {};
    p.weights = in(0), p.mean = in(1), p.router = in(2), p.a_bias = in(3), p.sums = in(4);
    p.offset = out(0), p.by_image = out(1);
    p.channels = channels();
    p.plane = plane();
    p.experts = (int)params.experts;
    p.rank = ranks(p.first);
    start("router", "route_backward", p, for_images(), route_shared(p.channels, p.experts));
  }

  // SM_ERROR_ARGUMENT, without a message, where there is no such kernel.
  void all() {
    if (is("stripes", 6, 1)) return stripes(false);
    if (is("stripes_backward", 6, 2)) return stripes(true);
    if (is("experts", 9, 1)) return experts(false);
    if (is("experts_backward", 10, 3)) return experts(true);
    if (is("pool", 1, 1)) return pool();
    if (is("route", 2, 2)) return route();
    if (is("route_backward", 5, 2)) return route_backward();
    fail(SM_ERROR_ARGUMENT, "no kernel %s with %d inputs and %d outputs", params.kernel, params.input_count,
         params.output_count);
  }
};

sm_status check(const sm_cuda_op_params& p) {
  int64_t rank = 0;
  for (int64_t e = 0; e < p.experts; ++e) rank += p.ranks[e];
  const struct {
    const char* name;
    int64_t value, least, most;
  } limits[] = {
      {"pixels", p.pixels, SM_CUDA_PIXELS_FP32, SM_CUDA_PIXELS_BF16},
      {"n", p.n, 1, 65535},
      {"c", p.c, 1, 8192},
      {"h * w", p.h * p.w, 1, (int64_t)1 << 30},
      {"n * c * shares", p.n * p.c * p.shares, 1, ((int64_t)1 << 31) - 1},
      {"taps", p.taps, 1, kMostTaps},
      {"the number of experts", p.experts, 0, kMostExperts},
      {"the sum of ranks", rank, 0, kMostRanks},
  };
  for (const auto& limit : limits)
    if (limit.value < limit.least || limit.value > limit.most)
      return fail(SM_ERROR_UNSUPPORTED, "%s must lie in %lld..%lld for the CUDA operators, got %lld",
                  limit.name, (long long)limit.least, (long long)limit.most, (long long)limit.value);
  return SM_OK;
}

}  // namespace

sm_status sm_cuda_op(const sm_cuda_op_params* params) {
  if (const sm_status status = check(*params)) return status;
  const OnDevice on(params->device);
  if (on.error) return fail(SM_ERROR_DEVICE, "CUDA: %s", on.error);
  for (int i = 0; i < params->input_count; ++i)
    declare(params->inputs[i].address, params->inputs[i].bytes, "an input", false);
  for (int i = 0; i < params->output_count; ++i)
    declare(params->outputs[i].address, params->outputs[i].bytes, "an output", true);
  Run run = {*params};
  run.all();
  forget_declared();
  return run.status;
}

void sm_cuda_op_programs(sm_cuda_pixels pixels, sm_cuda_visit visit, void* context) {
  for (const char* source : {"striped_conv2d", "experts", "router"}) {
    const Program program = program_of(source, pixels);
    visit(context, program.source.c_str(), program.options.c_str(), "");
  }
}
