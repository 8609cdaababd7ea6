// The Python module seemore_fast._C: names and types for the C API, nothing more.
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "seemore.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of seemore-fast; use seemore_fast.ops and seemore_fast.SeemoRe instead.";

  m.def(
      "isa",
      [] {
        const char* name = sm_isa();
        if (!name) seemore::check(SM_ERROR_UNSUPPORTED);
        return std::string(name);
      },
      "Instruction set in use. Raises BackendError if SEEMORE_ISA names none that works here.");
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (int i = 0; sm_usable_isa(i); ++i) names.emplace_back(sm_usable_isa(i));
        return names;
      },
      "Instruction sets usable on this machine, the newest last.");
  m.def(
      "set_isa", [](const char* name) { seemore::check(sm_set_isa(name)); }, py::arg("name").none(true),
      "Use the named instruction set in the whole process; None: choose again. For tests.");

  seemore::bind_ops(m);
  seemore::bind_engine(m);
  seemore::bind_cuda(m);
  seemore::bind_watch(m);
  seemore::bind_image(m);
  seemore::bind_microbench(m);
}
