// What the files of the Python module share: each binds one section of seemore.h.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "seemore.h"

namespace seemore {

// Turns a status into the matching Python exception: ValueError, MemoryError or BackendError.
void check(sm_status status);

void bind_engine(pybind11::module_& m);

}  // namespace seemore
