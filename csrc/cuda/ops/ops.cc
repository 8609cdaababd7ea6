// The operators' C entry points: checks, then the operator by its name.
#include <cstring>

#include "cuda/ops/call.h"
#include "status.h"

namespace seemore {
namespace cuda {

void low_rank_experts(Call& call);
void mix_experts(Call& call);
void striped_conv2d(Call& call);

namespace {

struct Op {
  const char* name;
  void (*run)(Call&);
  int inputs, saved;
};

constexpr Op kOps[] = {
    {"low_rank_experts", low_rank_experts, 8, 0},
    {"mix_experts", mix_experts, 9, 2},
    {"striped_conv2d", striped_conv2d, 5, 0},
};

// Sources of kernels: the operators', and what they share.
constexpr const char* kShared[] = {"sums"};

constexpr int kBlocks = 528;  // that sum up gradients: never the card's own number, on which the order would
                              // depend

const Op* find(const char* name) {
  for (const Op& op : kOps)
    if (strcmp(op.name, name) == 0) return &op;
  return nullptr;
}

sm_status takes(const sm_cuda_op_params& p) {
  if (!find(p.op)) return fail(SM_ERROR_UNSUPPORTED, "there is no CUDA C++ kernel of %s", p.op);
  const struct {
    const char* text;  // what the kernels take, with the most of them
    int64_t value, most;
  } limits[] = {
      {"stripes of at most %lld", p.kernel, kMostTaps},
      {"ranks of at most %lld in all", p.rank, kMostRanks},
      {"at most %lld experts", p.experts, kMostExperts},
      {"at most %lld channels", p.c, 8192},
      {"batches of at most %lld images", p.n, 65535},
      {"planes of at most %lld pixels", p.h * p.w, (int64_t)1 << 30},
      {"at most %lld blocks", p.n * p.c * ((p.h * p.w + 1023) / 1024), ((int64_t)1 << 31) - 1},
  };
  for (const auto& limit : limits) {
    if (limit.value <= limit.most) continue;
    char text[100];
    snprintf(text, sizeof text, limit.text, (long long)limit.most);
    return fail(SM_ERROR_UNSUPPORTED, "the CUDA kernels take %s, not %lld", text, (long long)limit.value);
  }
  return SM_OK;
}

sm_status check(const sm_cuda_op_params& p) {
  if (const sm_status status = takes(p)) return status;
  const Op& op = *find(p.op);
  const int outputs = p.backward ? op.inputs : 1 + op.saved, saved = p.backward ? op.saved : 0;
  if (p.input_count != op.inputs || p.saved_count != saved || p.output_count != outputs)
    return fail(SM_ERROR_ARGUMENT, "%s takes %d inputs, %d saved and %d outputs, not %d, %d and %d", p.op,
                op.inputs, saved, outputs, p.input_count, p.saved_count, p.output_count);
  const struct {
    const char* name;
    int64_t value, least, most;
  } limits[] = {
      {"pixels", p.pixels, SM_CUDA_PIXELS_FP32, SM_CUDA_PIXELS_BF16},
      {"n", p.n, 0, p.n},
      {"c", p.c, 1, p.c},
      {"h * w", p.h * p.w, 1, p.h * p.w},
      {"kernel", p.kernel, 1, p.kernel},
      {"rank", p.rank, 1, p.rank},
      {"topk", p.topk, 1, p.experts > 0 ? p.experts : 1},
  };
  for (const auto& limit : limits)
    if (limit.value < limit.least || limit.value > limit.most)
      return fail(SM_ERROR_ARGUMENT, "%s: %s must lie in %lld..%lld, got %lld", p.op, limit.name,
                  (long long)limit.least, (long long)limit.most, (long long)limit.value);
  if (p.kernel % 2 == 0)
    return fail(SM_ERROR_ARGUMENT, "%s: kernel must be odd, got %lld", p.op, (long long)p.kernel);
  int64_t ranks = 0;
  for (int64_t e = 0; p.ranks && e < p.experts; ++e) ranks += p.ranks[e];
  if (p.ranks && ranks != p.rank)
    return fail(SM_ERROR_ARGUMENT, "%s: ranks must sum to %lld, got %lld", p.op, (long long)p.rank,
                (long long)ranks);
  return SM_OK;
}

void declare_all(const sm_cuda_buffer* buffers, int count, const char* what, bool writable) {
  for (int i = 0; i < count; ++i)
    if (buffers[i].address) declare(buffers[i].address, buffers[i].bytes, what, writable);
}

}  // namespace

Program op_program(const char* source, sm_cuda_pixels pixels) {
  constexpr const char* kTypes[] = {"Float32", "Float16", "BFloat16"};
  return {std::string("ops/") + source, std::string("-DSM_TYPE=") + kTypes[pixels], ""};
}

Call::Call(const sm_cuda_op_params& given, bool counting)
    : params(given),
      channels((int)given.c),
      plane((int)(given.h * given.w)),
      planes(given.n * given.c),
      counting_(counting) {}

bool Call::wants(int first, int last) const {
  for (int i = first; i < last; ++i)
    if (params.outputs[i].address) return true;
  return false;
}

void* Call::room(size_t bytes) {
  char* const here = counting_ ? nullptr : static_cast<char*>(params.workspace) + used_;
  if (here && bytes) declare(here, bytes, "memory to work in", true);
  used_ += (bytes + 255) / 256 * 256;
  return here;
}

float* Call::floats(size_t count) { return static_cast<float*>(room(count * sizeof(float))); }

void* Call::image() {
  const size_t element = params.pixels == SM_CUDA_PIXELS_FP32 ? 4 : 2;
  return room(planes * plane * element);
}

int Call::few(int pixels, int64_t others) const {
  const int64_t each = others ? (kBlocks + others - 1) / others : kBlocks;
  return tiles(pixels) < each ? tiles(pixels) : (int)each;
}

Call::Sums Call::sum(const float* from, int64_t images, int64_t parts, size_t width) {
  SumParams p = {};
  p.from = from;
  p.images = (int)images;
  p.parts = parts;
  p.width = width;
  return {*this, p};
}

Call::Sums& Call::Sums::piece(float* to, size_t offset, size_t rows, size_t columns, size_t row_step,
                              size_t column_step) {
  if (to) params_.pieces[params_.count++] = {to, offset, rows, columns, row_step, column_step};
  return *this;
}

Call::Sums::~Sums() {
  size_t elements = 0;
  for (int i = 0; i < params_.count; ++i) elements += params_.pieces[i].rows * params_.pieces[i].columns;
  call_.start("sums", "sum_parts", params_, (elements + 31) / 32, params_.images,
              kWarps * 32 * sizeof(float));
}

}  // namespace cuda
}  // namespace seemore

using namespace seemore;
using namespace seemore::cuda;

sm_status sm_cuda_op_takes(const sm_cuda_op_params* params) { return takes(*params); }

sm_status sm_cuda_op_workspace(const sm_cuda_op_params* params, int64_t* bytes) {
  if (const sm_status status = check(*params)) return status;
  Call call(*params, true);
  find(params->op)->run(call);
  *bytes = (int64_t)call.used();
  return SM_OK;
}

sm_status sm_cuda_op(const sm_cuda_op_params* params) {
  int64_t needed = 0;
  if (const sm_status status = sm_cuda_op_workspace(params, &needed)) return status;
  if (params->workspace_bytes < needed)
    return fail(SM_ERROR_ARGUMENT, "workspace_bytes must be at least %lld, got %lld", (long long)needed,
                (long long)params->workspace_bytes);
  const OnDevice on(params->device);
  if (on.error) return fail(SM_ERROR_DEVICE, "CUDA: %s", on.error);
  declare_all(params->inputs, params->input_count, "an input", false);
  declare_all(params->saved, params->saved_count, "what forward gave", false);
  declare_all(&params->grad, 1, "the gradient", false);
  declare_all(params->outputs, params->output_count, "an output", true);
  Call call(*params, false);
  find(params->op)->run(call);
  forget_declared();
  return call.error() ? fail(SM_ERROR_DEVICE, "CUDA: %s", call.error()) : SM_OK;
}

void sm_cuda_op_programs(sm_cuda_pixels pixels, sm_cuda_visit visit, void* context) {
  const auto add = [&](const char* source) {
    const Program program = op_program(source, pixels);
    visit(context, program.source.c_str(), program.options.c_str(), "");
  };
  for (const Op& op : kOps) add(op.name);
  for (const char* source : kShared) add(source);
}
