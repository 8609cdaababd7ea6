// The packed network: what sm_engine_create() makes.
#pragma once

#include <deque>
#include <vector>

#include "cpu/engine/model.h"
#include "seemore.h"

struct sm_engine {
  seemore::engine::Model model;
  std::vector<seemore::engine::Group> groups;
  std::deque<std::vector<float>> storage;  // what the pointers above point into
};

namespace seemore {
namespace engine {

// Packs a checked network's weights for the micro-kernels. Throws std::bad_alloc.
void pack(const sm_network& net, bool bf16, sm_engine& engine);

}  // namespace engine
}  // namespace seemore
