#include "image/runs.h"

#include <array>

namespace seemore {
namespace {

constexpr int kLongest = 12;  // bits of a code

class Codes {
 public:
  Codes(const uint8_t* data, size_t size, bool gif) : at_(data), end_(data + size), gif_(gif) {}

  // -1: no whole one is left.
  int get(int width) {
    while (have_ < width) {
      if (at_ == end_) return -1;
      bits_ = gif_ ? bits_ | uint32_t{*at_} << have_ : bits_ << 8 | *at_;
      ++at_;
      have_ += 8;
    }
    const uint32_t mask = (1u << width) - 1;
    have_ -= width;
    if (!gif_) return static_cast<int>(bits_ >> have_ & mask);
    const uint32_t code = bits_ & mask;
    bits_ >>= width;
    return static_cast<int>(code);
  }

  int64_t left() const { return end_ - at_; }

 private:
  const uint8_t *at_, *end_;
  bool gif_;
  uint32_t bits_ = 0;
  int have_ = 0;
};

}  // namespace

Run walk_lzw(const uint8_t* data, size_t size, int bits, bool gif) {
  std::array<int32_t, 1 << kLongest> length;  // of what each code stands for
  const int clear = 1 << bits, stop = clear + 1, early = gif ? 0 : 1;
  length.fill(1);
  Codes codes(data, size, gif);
  Run run;
  int next = clear + 2, width = bits + 1, before = -1;
  for (;;) {
    const int code = codes.get(width);
    if (code < 0) return run;
    if (code == stop) break;
    if (code == clear) {
      next = clear + 2;
      width = bits + 1;
      before = -1;
      continue;
    }
    // The next code is the last one and its own first byte once more.
    const bool fresh = before >= 0 && next < 1 << kLongest;
    if (code > next - (fresh ? 0 : 1) || (before < 0 && code > clear)) {
      run.broken = true;
      return run;
    }
    if (fresh) length[next++] = length[before] + 1;
    run.produced += length[code];
    before = code;
    if (next + early >= 1 << width && width < kLongest) ++width;
  }
  run.left = codes.left();
  return run;
}

Run walk_packbits(const uint8_t* data, size_t size) {
  Run run;
  for (size_t at = 0; at < size;) {
    const int head = data[at++];
    if (head == 128) continue;  // nothing, by definition
    const int count = head < 128 ? head + 1 : 257 - head;
    at += head < 128 ? count : 1;
    if (at > size) {
      run.broken = true;
      return run;
    }
    run.produced += count;
  }
  return run;
}

}  // namespace seemore
