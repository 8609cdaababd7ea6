// The C entry points for measuring single kernels: check the parameters, then run.
#include <string.h>

#include "cpu/engine/microbench.h"
#include "cpu/isa/dispatch.h"
#include "cpu/rows/matrix.h"

using namespace seemore;

namespace {

constexpr int kLargest = 1 << 16;

sm_status check(const char* name, int value, int multiple) {
  if (value > 0 && value <= kLargest && value % multiple == 0) return SM_OK;
  return fail(SM_ERROR_ARGUMENT, "sm_run_kernel: %s must be a multiple of %d in %d..%d, got %d", name,
              multiple, multiple, kLargest, value);
}

}  // namespace

const char* sm_kernel_name(int i) {
  const IsaTables* isa = tables();
  return isa ? isa->microbench->name(i) : nullptr;
}

sm_status sm_run_kernel(const sm_run_kernel_params* p, double* operations) {
  if (sm_status status = check("channels", p->channels, 4)) return status;
  if (sm_status status = check("width", p->width, kColumnAlign)) return status;
  if (sm_status status = check("threads", p->threads, 1)) return status;
  if (p->repeats < 1)
    return fail(SM_ERROR_ARGUMENT, "sm_run_kernel: repeats must be at least 1, got %d", p->repeats);
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  int kernel = 0;
  while (isa->microbench->name(kernel) && strcmp(isa->microbench->name(kernel), p->kernel) != 0) ++kernel;
  if (!isa->microbench->name(kernel))
    return fail(SM_ERROR_ARGUMENT, "sm_run_kernel: no kernel '%.32s' in instruction set %s", p->kernel,
                sm_isa());
  const engine::MicrobenchSize size = {p->channels, p->width, p->repeats, p->threads};
  if (isa->microbench->run(kernel, size, operations)) return SM_OK;
  return fail(SM_ERROR_MEMORY, "sm_run_kernel: out of memory");
}
