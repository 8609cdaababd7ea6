// Binds the measuring section of seemore.h.
#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace seemore {
namespace {

double run_kernel(const std::string& kernel, int channels, int width, int repeats, int threads) {
  const sm_run_kernel_params params = {kernel.c_str(), channels, width, repeats, threads};
  double operations = 0;
  sm_status status;
  {
    py::gil_scoped_release release;
    status = sm_run_kernel(&params, &operations);
  }
  check(status);
  return operations;
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (int i = 0; const char* name = sm_kernel_name(i); ++i) names.emplace_back(name);
  return names;
}

}  // namespace

void bind_microbench(py::module_& m) {
  using py::arg;
  m.def("kernel_names", kernel_names, "What run_kernel() takes with the instruction set in use.");
  m.def(
      "run_kernel", run_kernel, arg("kernel"), arg("channels"), arg("width"), arg("repeats"), arg("threads"),
      "Runs one of the engine's kernels on rows in the cache, for the caller to time; returns the number of\n"
      "operations done: two for a multiply-add, one for an element of gelu and layer_norm.");
}

}  // namespace seemore
