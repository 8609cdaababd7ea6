// The operations' C entry points: check the parameters, then run the kernel of the instruction set in use.
#include <string.h>

#include "cpu/isa/dispatch.h"

namespace seemore {
namespace {

sm_status check_at_least(const char* op, const char* name, int64_t value, int64_t smallest) {
  if (value >= smallest) return SM_OK;
  return fail(SM_ERROR_ARGUMENT, "%s: %s must be at least %lld, got %lld", op, name, (long long)smallest,
              (long long)value);
}

struct Pointer {
  const char* name;
  const void* value;
};

template <class Params, size_t count>
sm_status check_common(const char* op, const Params& p, const Pointer (&pointers)[count]) {
  const struct {
    const char* name;
    int64_t value, smallest;
  } sizes[] = {{"n", p.n, 0}, {"c", p.c, 1}, {"h", p.h, 1}, {"w", p.w, 1}, {"threads", p.threads, 1}};
  for (const auto& size : sizes) {
    if (sm_status status = check_at_least(op, size.name, size.value, size.smallest)) return status;
  }
  for (const Pointer& pointer : pointers) {
    if (!pointer.value && p.n) return fail(SM_ERROR_ARGUMENT, "%s: %s is NULL", op, pointer.name);
  }
  return SM_OK;
}

template <class Params>
sm_status run(bool (*OpsTable::*kernel)(const Params&), const char* op, const Params& p) {
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  if (p.n == 0 || (isa->ops->*kernel)(p)) return SM_OK;
  return fail(SM_ERROR_MEMORY, "%s: out of memory", op);
}

}  // namespace
}  // namespace seemore

using namespace seemore;

#define SM_POINTER(name) {#name, p->name}

sm_status sm_layer_norm2d(const sm_layer_norm2d_params* p) {
  const char* op = "sm_layer_norm2d";
  const Pointer pointers[] = {SM_POINTER(x), SM_POINTER(weight), SM_POINTER(bias), SM_POINTER(out)};
  if (sm_status status = check_common(op, *p, pointers)) return status;
  if (!(p->eps >= 0))
    return fail(SM_ERROR_ARGUMENT, "%s: eps must be at least 0, got %g", op, (double)p->eps);
  return run(&OpsTable::layer_norm2d, op, *p);
}

sm_status sm_striped_conv2d(const sm_striped_conv2d_params* p) {
  const char* op = "sm_striped_conv2d";
  const Pointer pointers[] = {SM_POINTER(x),  SM_POINTER(w1), SM_POINTER(b1),
                              SM_POINTER(w2), SM_POINTER(b2), SM_POINTER(out)};
  if (sm_status status = check_common(op, *p, pointers)) return status;
  if (p->k < 1 || p->k % 2 == 0) {
    return fail(SM_ERROR_ARGUMENT, "%s: k must be odd and positive, got %lld", op, (long long)p->k);
  }
  return run(&OpsTable::striped_conv2d, op, *p);
}

sm_status sm_low_rank_experts(const sm_low_rank_experts_params* p) {
  const char* op = "sm_low_rank_experts";
  const Pointer pointers[] = {SM_POINTER(x),        SM_POINTER(k),        SM_POINTER(b_weight),
                              SM_POINTER(b_bias),   SM_POINTER(c_weight), SM_POINTER(c_bias),
                              SM_POINTER(a_weight), SM_POINTER(a_bias),   SM_POINTER(out)};
  if (sm_status status = check_common(op, *p, pointers)) return status;
  if (sm_status status = check_at_least(op, "rank", p->rank, 1)) return status;
  return run(&OpsTable::low_rank_experts, op, *p);
}

sm_status sm_mix_experts(const sm_mix_experts_params* p) {
  const char* op = "sm_mix_experts";
  const Pointer pointers[] = {SM_POINTER(x),        SM_POINTER(k),        SM_POINTER(router_weight),
                              SM_POINTER(b_weight), SM_POINTER(b_bias),   SM_POINTER(c_weight),
                              SM_POINTER(c_bias),   SM_POINTER(a_weight), SM_POINTER(a_bias),
                              SM_POINTER(ranks),    SM_POINTER(out),      SM_POINTER(weights),
                              SM_POINTER(mean)};
  if (sm_status status = check_common(op, *p, pointers)) return status;
  if (sm_status status = check_at_least(op, "experts", p->experts, 1)) return status;
  if (p->topk < 1 || p->topk > p->experts) {
    return fail(SM_ERROR_ARGUMENT, "%s: topk must lie in 1..%lld, got %lld", op, (long long)p->experts,
                (long long)p->topk);
  }
  for (int64_t e = 0; e < p->experts; ++e) {
    if (sm_status status = check_at_least(op, "ranks[e]", p->ranks[e], 1)) return status;
  }
  return run(&OpsTable::mix_experts, op, *p);
}

sm_status sm_op(const sm_op_params* p) {
  const char* op = "sm_op";
  const Pointer pointers[] = {SM_POINTER(op), SM_POINTER(inputs), SM_POINTER(outputs)};
  if (sm_status status = check_common(op, *p, pointers)) return status;
  if (p->kernel < 1 || p->kernel % 2 == 0) {
    return fail(SM_ERROR_ARGUMENT, "%s: kernel must be odd and positive, got %lld", op, (long long)p->kernel);
  }
  if (p->recursive < 0 || p->recursive > 15 || (p->h < p->w ? p->h : p->w) >> 2 * p->recursive == 0) {
    return fail(SM_ERROR_ARGUMENT, "%s: h and w must be at least 4^recursive, got %lld and %lld", op,
                (long long)p->h, (long long)p->w);
  }
  // Weights, and one plane, are indexed by int.
  if (p->c > 8192 || p->h > 65536 || p->w > 65536 || p->h * p->w > INT32_MAX) {
    return fail(SM_ERROR_ARGUMENT, "%s: c must be at most 8192, h and w 65536, h * w 2^31 - 1", op);
  }
  for (int64_t e = 0; e < p->experts; ++e) {
    if (sm_status status = check_at_least(op, "ranks[e]", p->ranks[e], 1)) return status;
  }
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  for (const auto& entry : isa->train->ops) {
    if (strcmp(entry.name, p->op)) continue;
    return entry.run(*p) ? SM_OK : fail(SM_ERROR_MEMORY, "%s: %s: out of memory", op, p->op);
  }
  return fail(SM_ERROR_ARGUMENT, "%s: there is no operator %s", op, p->op);
}
