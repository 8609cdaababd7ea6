// Whether data compressed by LZW (TIFF 6.0, section 13; GIF89a, appendix F) or PackBits (TIFF 6.0, section 9)
// stand for as many bytes as they should. Decoders stop when they have enough, and say nothing of the rest.
#pragma once

#include <cstddef>
#include <cstdint>

namespace seemore {

struct Run {
  bool broken = false;   // a code that stands for nothing, or data that end within one
  int64_t produced = 0;  // bytes up to the end mark, or to the end of the data
  int64_t left = 0;      // bytes behind the end mark
};

// bits: of a literal; 8 in TIFF. gif: codes begin at the low bits, and grow one later than in TIFF.
Run walk_lzw(const uint8_t* data, size_t size, int bits, bool gif);

Run walk_packbits(const uint8_t* data, size_t size);

}  // namespace seemore
