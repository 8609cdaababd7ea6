// Binds image/jpeg.h and image/runs.h.
#include <string>
#include <string_view>

#include "bindings/bindings.h"
#include "image/jpeg.h"
#include "image/runs.h"

namespace py = pybind11;

namespace seemore {
namespace {

py::tuple jpeg_fault(const py::bytes& file) {
  static constexpr const char* kNames[] = {"", "short", "left", "padding", "code", "range", "sequence"};
  const std::string_view data = file;
  JpegFinding found;
  {
    py::gil_scoped_release release;
    found = check_jpeg(reinterpret_cast<const uint8_t*>(data.data()), data.size());
  }
  return py::make_tuple(kNames[static_cast<int>(found.fault)], found.at, found.units, found.left);
}

py::tuple lzw_length(const py::bytes& codes, int bits, bool gif) {
  if (bits < 1 || bits > 8) throw py::value_error("bits must be 1 to 8");
  const std::string_view data = codes;
  Run run;
  {
    py::gil_scoped_release release;
    run = walk_lzw(reinterpret_cast<const uint8_t*>(data.data()), data.size(), bits, gif);
  }
  return py::make_tuple(run.broken, run.produced, run.left);
}

py::tuple packbits_length(const py::bytes& codes) {
  const std::string_view data = codes;
  const Run run = walk_packbits(reinterpret_cast<const uint8_t*>(data.data()), data.size());
  return py::make_tuple(run.broken, run.produced, run.left);
}

}  // namespace

void bind_image(py::module_& m) {
  m.def("jpeg_fault", jpeg_fault, py::arg("file"),
        "What is wrong with a JPEG's compressed data: kind (\"\": nothing), MCU at whose interval it shows,\n"
        "MCUs of that scan, bytes left over.");
  m.def("lzw_length", lzw_length, py::arg("codes"), py::arg("bits"), py::arg("gif"),
        "Whether a code stands for nothing, bytes that all stand for, bytes behind the end mark.");
  m.def("packbits_length", packbits_length, py::arg("codes"), "As lzw_length.");
}

}  // namespace seemore
