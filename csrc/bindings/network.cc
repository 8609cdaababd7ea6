// Reads lists of float32 arrays into the structs of seemore.h.
#include "bindings/network.h"

#include <string>

#include "weights.h"

namespace py = pybind11;

namespace seemore {
namespace {

using Array = py::array_t<float, py::array::c_style>;

// A part's weights from arrays in their order; each must have as many floats as the network's sizes say.
template <class Part>
Part read(const py::handle& given, const std::string& name, const WeightSizes& sizes,
          std::vector<Array>& alive) {
  const auto arrays = given.cast<std::vector<Array>>();
  if (arrays.size() != kTensors<Part>)
    throw py::value_error(name + " must have " + std::to_string(kTensors<Part>) + " arrays, got " +
                          std::to_string(arrays.size()));
  Part part = {};
  size_t i = 0;
  auto take = [&](const float*& values, size_t floats) {
    const Array& array = arrays[i];
    if ((size_t)array.size() != floats)
      throw py::value_error(name + "[" + std::to_string(i) + "] must have " + std::to_string(floats) +
                            " elements, got " + std::to_string(array.size()));
    values = array.data();
    alive.push_back(array);
    ++i;
  };
  each(part, sizes, take);
  return part;
}

}  // namespace

NetworkWeights::NetworkWeights(const py::dict& network) {
  auto number = [&](const char* name) { return network[name].cast<int>(); };
  ranks = network["ranks"].cast<std::vector<int>>();
  net.scale = number("scale");
  net.in_chans = number("in_chans");
  net.num_experts = number("num_experts");
  net.num_layers = number("num_layers");
  net.dim = number("dim");
  net.kernel = number("kernel");
  net.recursive = number("recursive");
  net.topk = number("topk");
  net.img_range = network["img_range"].cast<float>();
  if ((int)ranks.size() != net.num_experts) throw py::value_error("ranks must have num_experts entries");
  net.ranks = ranks.data();

  const WeightSizes sizes(net);
  net.ends = read<sm_ends_weights>(network["ends"], "ends", sizes, alive);
  const py::list given = network["groups"];
  if ((int)given.size() != net.num_layers) throw py::value_error("groups must have num_layers entries");
  for (size_t i = 0; i < given.size(); ++i)
    groups.push_back(read<sm_group_weights>(given[i], "groups[" + std::to_string(i) + "]", sizes, alive));
  net.groups = groups.data();
}

}  // namespace seemore
