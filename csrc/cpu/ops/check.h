// What the operators' C entry points check of their parameters.
#pragma once

#include "status.h"

namespace seemore {
namespace ops {

// Weights, and one plane, are indexed by int.
constexpr int64_t kMostChannels = 8192, kLongestSide = 65536;
constexpr int kMostRecursive = 15;

inline sm_status check_range(const char* op, const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return SM_OK;
  return fail(SM_ERROR_ARGUMENT, "%s: %s must lie in %lld..%lld, got %lld", op, name, (long long)least,
              (long long)most, (long long)value);
}

inline sm_status check_options(const sm_op_params& p) {
  const struct {
    const char* name;
    int64_t value, least, most;
  } ranges[] = {{"n", p.n, 0, INT64_MAX},
                {"c", p.c, 1, kMostChannels},
                {"h", p.h, 1, kLongestSide},
                {"w", p.w, 1, kLongestSide},
                {"h * w", p.h * p.w, 1, INT32_MAX},
                {"threads", p.threads, 1, INT32_MAX},
                {"kernel", p.kernel, 1, kLongestSide},
                {"rank", p.rank, 1, kMostChannels},
                {"experts", p.experts, 0, kMostChannels},
                {"topk", p.topk, 1, p.experts > 0 ? p.experts : 1},
                {"recursive", p.recursive, 0, kMostRecursive}};
  for (const auto& range : ranges) {
    if (sm_status status = check_range(p.op, range.name, range.value, range.least, range.most)) return status;
  }
  if (p.kernel % 2 == 0)
    return fail(SM_ERROR_ARGUMENT, "%s: kernel must be odd, got %lld", p.op, (long long)p.kernel);
  if ((p.h < p.w ? p.h : p.w) >> 2 * p.recursive == 0)
    return fail(SM_ERROR_ARGUMENT, "%s: h and w must be at least 4^recursive, got %lld and %lld", p.op,
                (long long)p.h, (long long)p.w);
  if (!(p.eps >= 0))
    return fail(SM_ERROR_ARGUMENT, "%s: eps must be at least 0, got %g", p.op, (double)p.eps);
  if (p.experts && !p.ranks) return fail(SM_ERROR_ARGUMENT, "%s: ranks is NULL", p.op);
  for (int64_t e = 0; e < p.experts; ++e) {
    if (sm_status status = check_range(p.op, "ranks[e]", p.ranks[e], 1, kMostChannels)) return status;
  }
  return SM_OK;
}

template <class T>
sm_status check_pointers(const char* op, const char* name, T* const* pointers, int count) {
  for (int i = 0; i < count; ++i) {
    if (!pointers || !pointers[i]) return fail(SM_ERROR_ARGUMENT, "%s: %s[%d] is NULL", op, name, i);
  }
  return SM_OK;
}

inline sm_status check_tensors(const sm_op_params& p, int inputs, int saved) {
  if (p.n == 0) return p.outputs ? SM_OK : fail(SM_ERROR_ARGUMENT, "%s: outputs is NULL", p.op);
  if (sm_status status = check_pointers(p.op, "inputs", p.inputs, inputs)) return status;
  if (!p.grad) return check_pointers(p.op, "outputs", p.outputs, 1 + saved);
  if (!p.outputs) return fail(SM_ERROR_ARGUMENT, "%s: outputs is NULL", p.op);
  return check_pointers(p.op, "saved", p.saved, saved);
}

}  // namespace ops
}  // namespace seemore
