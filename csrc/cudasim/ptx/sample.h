// Which blocks of a launch are run where only a sample is: tiles at an image's border do more than others.
#pragma once

#include <cstdint>
#include <vector>

namespace cudasim::ptx {

struct Sampled {
  uint32_t block;
  double stands_for;  // so many blocks, itself included
};

// About `most` of `images` times `tiles` blocks, 0: all. Tiles lie row by row, `across` to a row. Corners,
// each edge and the inner tiles are sampled apart, each evenly and from its first image on; none is left out.
std::vector<Sampled> sample(uint32_t tiles, uint32_t images, uint32_t across, uint32_t most);

}  // namespace cudasim::ptx
