// Binds image/jpeg.h.
#include <string>
#include <string_view>

#include "bindings/bindings.h"
#include "image/jpeg.h"

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

}  // namespace

void bind_image(py::module_& m) {
  m.def("jpeg_fault", jpeg_fault, py::arg("file"),
        "What is wrong with a JPEG's compressed data: kind (\"\": nothing), MCU at whose interval it shows,\n"
        "MCUs of that scan, bytes left over.");
}

}  // namespace seemore
