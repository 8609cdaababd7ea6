// Statuses of the C API as Python exceptions.
#include "bindings/bindings.h"

namespace py = pybind11;

namespace seemore {

void check(sm_status status) {
  if (status == SM_OK) return;
  if (status == SM_ERROR_MEMORY) {
    PyErr_SetString(PyExc_MemoryError, sm_last_error());
    throw py::error_already_set();
  }
  if (status == SM_ERROR_ARGUMENT) throw py::value_error(sm_last_error());
  const char* const name = status == SM_ERROR_DEVICE ? "DeviceError" : "BackendError";
  const py::object type = py::module_::import("seemore_fast.errors").attr(name);
  PyErr_SetString(type.ptr(), sm_last_error());
  throw py::error_already_set();
}

}  // namespace seemore
