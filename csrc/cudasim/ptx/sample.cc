// Samples of a launch's blocks.
#include "cudasim/ptx/sample.h"

#include <algorithm>
#include <array>

namespace cudasim::ptx {

std::vector<Sampled> sample(uint32_t tiles, uint32_t images, uint32_t across, uint32_t most) {
  const uint32_t blocks = tiles * images, down = tiles / across;
  auto place = [](uint32_t i, uint32_t of) { return i == 0 ? 0 : i + 1 < of ? 1 : 2; };
  std::array<std::vector<uint32_t>, 9> kinds;
  for (uint32_t block = 0; block < blocks; ++block) {
    const uint32_t tile = block % tiles;
    kinds[3 * place(tile / across, down) + place(tile % across, across)].push_back(block);
  }
  std::vector<Sampled> found;
  for (const std::vector<uint32_t>& kind : kinds) {
    const auto size = (uint32_t)kind.size();
    if (!size) continue;
    const auto share = (uint32_t)(((uint64_t)size * most + blocks / 2) / blocks);
    const uint32_t count = most ? std::clamp(share, 1u, size) : size;
    for (uint32_t i = 0; i < count; ++i)
      found.push_back({kind[(2 * i + 1) * (uint64_t)size / (2 * count)], (double)size / count});
  }
  return found;
}

}  // namespace cudasim::ptx
