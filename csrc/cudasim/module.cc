// The Python module _cudasim: the CUDA engine on the CPU, for tests.
#include <cmath>
#include <string>

#include "bindings/bindings.h"
#include "cudasim/device.h"
#include "cudasim/executor.h"
#include "cudasim/faults.h"

namespace py = pybind11;
using namespace seemore;

void bind_ptx(py::module_& m);  // module_ptx.cc

namespace {

// "", or what the simulator found, or "wrong result".
std::string run_fault(const std::string& name) {
  using namespace cudasim;
  const Fault* found = nullptr;
  for (int i = 0; i < kFaultCount; ++i)
    if (name == kFaults[i].name) found = &kFaults[i];
  if (!found) throw py::value_error("unknown kernel: " + name);
  const FaultMemory memory = fault_memory();
  const unsigned count = memory.count;
  for (unsigned i = 0; i < count; ++i) memory.in[i] = memory.out[i] = memory.out[count + i] = (float)i;
  clear_memory();
  add_memory(memory.in, count * sizeof(float), "in", false);
  add_memory(memory.out, 2 * count * sizeof(float), "out", true);
  const std::string error = run(
      {name.c_str(), {found->blocks, 1, 1}, {count, 1, 1}, count * sizeof(float), found->body, nullptr, 0});
  clear_memory();
  for (unsigned i = 0; i < 2 * count; ++i)
    if (error.empty() && std::isnan(memory.out[i])) return "wrong result";
  return error;
}

}  // namespace

PYBIND11_MODULE(_cudasim, m) {
  using py::arg;
  m.doc() = "seemore_fast's CUDA kernels in a simulator (docs/testing-without-a-gpu.md).";
  bind_cuda(m);
  bind_watch(m);
  bind_ptx(m);
  m.def("configure", cudasim::configure, arg("seed"), arg("check"),
        "Order of blocks, warps and lanes (0: ascending); whether memory accesses are checked.");
  m.def(
      "pretend",
      [](int multiprocessors, size_t shared_limit) {
        cudasim::pretend({90, multiprocessors, shared_limit, shared_limit + 1024});
      },
      arg("multiprocessors"), arg("shared_limit"),
      "Figures of the GPU that engines made from now on are for.");
  m.def("run_fault", run_fault, arg("name"), "Runs a small kernel; what the simulator says of it.");
}
