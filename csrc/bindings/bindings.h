// What the files of the Python module share: each binds one section of seemore.h.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "seemore.h"

namespace seemore {

// Turns a status into the matching Python exception: ValueError, MemoryError or BackendError.
void check(sm_status status);

// Adds the operators of seemore.h to the module.
void bind_ops(pybind11::module_& m);

// Adds the engine.
void bind_engine(pybind11::module_& m);

// Adds the CUDA engine and operators.
void bind_cuda(pybind11::module_& m);

// Adds what sees changed weights.
void bind_watch(pybind11::module_& m);

// Adds what looks into files of pictures.
void bind_image(pybind11::module_& m);

// Adds what measures single kernels.
void bind_microbench(pybind11::module_& m);

}  // namespace seemore
