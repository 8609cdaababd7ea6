// Reads the folded weights (seemore_fast/network/fold.py) that both engines take.
#pragma once

#include <pybind11/numpy.h>

#include <vector>

#include "bindings/bindings.h"

namespace seemore {

// A sm_network with what it points to. Raises ValueError for too few weights or a wrong size.
class __attribute__((visibility("hidden"))) NetworkWeights {
 public:
  explicit NetworkWeights(const pybind11::dict& network);
  NetworkWeights(const NetworkWeights&) = delete;

  sm_network net = {};

 private:
  std::vector<pybind11::array_t<float, pybind11::array::c_style>> alive;
  std::vector<int> ranks;
  std::vector<sm_group_weights> groups;
};

}  // namespace seemore
