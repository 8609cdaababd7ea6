// The operators' C entry point: checks the parameters, then runs the operator of the instruction set in use.
#include <cstring>

#include "cpu/isa/dispatch.h"
#include "cpu/ops/check.h"
#include "cpu/ops/ops.h"

using namespace seemore;

sm_status sm_op(const sm_op_params* p) {
  if (!p->op) return fail(SM_ERROR_ARGUMENT, "sm_op: op is NULL");
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  const ops::Op* op = isa->ops->ops;
  const ops::Op* const end = op + isa->ops->count;
  while (op != end && strcmp(op->name, p->op)) ++op;
  if (op == end) return fail(SM_ERROR_ARGUMENT, "sm_op: there is no operator %s", p->op);
  if (sm_status status = ops::check_options(*p)) return status;
  if (sm_status status = ops::check_tensors(*p, op->inputs, op->saved)) return status;
  return op->run(*p) ? SM_OK : fail(SM_ERROR_MEMORY, "%s: out of memory", p->op);
}
