// What the Python module _cudasim offers of kernels in PTX.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "cudasim/ptx/run.h"
#include "cudasim/ptx/sample.h"

namespace py = pybind11;
using namespace cudasim;

namespace {

// Address, bytes, name, whether it may be written.
using Buffer = std::tuple<uintptr_t, size_t, std::string, bool>;

// Runs the only kernel of a text, whose parameters are the buffers' addresses; "" or what went wrong.
std::string run_ptx(const std::string& text, unsigned blocks, unsigned threads, size_t shared,
                    const std::vector<Buffer>& buffers) {
  ptx::unload_all();
  ptx::load(text, "");
  clear_memory();
  std::vector<uintptr_t> params;
  for (const auto& [address, bytes, name, writable] : buffers) {
    add_memory(reinterpret_cast<const void*>(address), bytes, name.c_str(), writable);
    params.push_back(address);
  }
  const ptx::Program* kernel = ptx::find("kernel");
  const std::string error = kernel ? ptx::run(*kernel, {blocks, 1, 1}, {threads, 1, 1}, shared, params.data(),
                                              params.size() * sizeof params[0])
                                   : "the text has no kernel of that name";
  clear_memory();
  ptx::unload_all();
  return error;
}

// Each line as (line of the text, opcode, issued, lanes, wavefronts, ideal wavefronts, sectors).
py::list measured() {
  py::list found;
  for (const ptx::Measured& m : ptx::measured()) {
    py::list lines;
    for (const auto& [line, opcode, c] : m.lines)
      lines.append(py::make_tuple(line, opcode, c.issued, c.lanes, c.wavefronts, c.ideal, c.sectors));
    py::dict launch;
    launch["kernel"] = m.kernel;
    launch["mangled"] = m.mangled;
    launch["grid"] = py::make_tuple(m.grid.x, m.grid.y, m.grid.z);
    launch["threads"] = m.threads;
    launch["shared"] = m.shared_bytes;
    launch["blocks"] = m.blocks_run;
    launch["lines"] = lines;
    found.append(launch);
  }
  return found;
}

}  // namespace

void bind_ptx(py::module_& m) {
  using py::arg;
  m.def("load_ptx", ptx::load, arg("text"), arg("program") = "",
        "Kernels of a PTX text, which run instead of g++'s from now on: then all must have been loaded.");
  m.def("unload_ptx", ptx::unload_all, "Back to the kernels that g++ compiled.");
  m.def(
      "find_ptx_by",
      [](py::object ask) {
        if (ask.is_none()) return ptx::when_missing(nullptr);
        ptx::when_missing([ask = std::move(ask)](const std::string& name) {
          py::gil_scoped_acquire gil;
          ask(name);
        });
      },
      arg("ask"), "ask(`program kernel`) is called for a kernel that is not loaded yet, and may load it.");
  m.def("use_ptx", ptx::use, arg("yes"), "Whether the loaded kernels run, or g++'s.");
  m.def("run_ptx", run_ptx, arg("text"), arg("blocks"), arg("threads"), arg("shared"), arg("buffers"),
        "Runs the kernel named `kernel` of a text on buffers (address, bytes, name, writable).");
  m.def("measure", ptx::measure, arg("most_blocks"),
        "Count what PTX kernels execute, from about so many blocks of a launch; 0: stop.");
  m.def(
      "measured", measured,
      "Launches since: kernel, mangled, grid, shared, blocks that were run, lines, counted for all blocks.");
  m.def(
      "sample",
      [](uint32_t tiles, uint32_t images, uint32_t across, uint32_t most) {
        std::vector<std::pair<uint32_t, double>> found;
        for (const ptx::Sampled& s : ptx::sample(tiles, images, across, most))
          found.emplace_back(s.block, s.stands_for);
        return found;
      },
      arg("tiles"), arg("images"), arg("across"), arg("most"),
      "Blocks that are run of so many, and how many each stands for.");
}
