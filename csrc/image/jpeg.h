// Whether the compressed data of a JPEG (ITU-T T.81) are whole: walks its Huffman codes without making
// pixels. libjpeg fills what is missing, and does not ask whether anything is left when it has all its
// blocks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace seemore {

enum class JpegFault {
  kNone,      // or a file that is not for us to judge: arithmetic coding, 12 bits, no loss, broken headers
  kShort,     // the data end before the blocks do
  kLeft,      // the blocks end before the data do
  kPadding,   // so do they, before many equal bytes
  kCode,      // bits that are no code, or a coefficient beyond the last
  kRange,     // coefficients that no picture of 8 bits has
  kSequence,  // restart markers out of order
};

struct JpegFinding {
  JpegFault fault = JpegFault::kNone;
  int64_t at = 0;     // the first interval with a fault, counted over all scans, in units of ...
  int64_t units = 0;  // ... the MCUs of its scan; how many these are
  int64_t left = 0;   // kLeft, kPadding: bytes
};

// The first fault of the file's first picture.
JpegFinding check_jpeg(const uint8_t* data, size_t size);

}  // namespace seemore
