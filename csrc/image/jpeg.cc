#include "image/jpeg.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

namespace seemore {
namespace {

// Of a coefficient of 8-bit samples, before quantisation: what the DCT makes of +-128, and room for encoders
// that overshoot on purpose.
constexpr int kLargestDc = 1024 + 64, kLargestAc = 2048;
constexpr int kPadding = 64;  // bytes that some encoders leave behind a scan
constexpr int kFast = 9;      // bits looked up at once

struct Huffman {
  bool defined = false;
  std::array<uint16_t, 1 << kFast> fast;  // length << 8 | symbol; 0: longer, or no code
  std::array<int32_t, 17> end;     // the first code of a length that is too large, left-aligned to 16 bits
  std::array<int32_t, 17> offset;  // index of a length's first symbol minus its first code
  std::array<uint8_t, 256> symbols;

  // counts: codes of each length 1..16. False: they do not form a code.
  bool define(const uint8_t* counts, const uint8_t* given, int total) {
    fast.fill(0);
    std::copy_n(given, total, symbols.begin());
    int code = 0, index = 0;
    for (int length = 1; length <= 16; ++length) {
      offset[length] = index - code;
      for (int i = 0; i < counts[length - 1]; ++i, ++code, ++index) {
        if (code >= 1 << length) return false;
        for (int rest = 0; length <= kFast && rest < 1 << (kFast - length); ++rest)
          fast[code << (kFast - length) | rest] = static_cast<uint16_t>(length << 8 | symbols[index]);
      }
      end[length] = code << (16 - length);
      code <<= 1;
    }
    return defined = true;
  }
};

// Bits of one restart interval.
class Bits {
 public:
  Bits(const uint8_t* at, const uint8_t* end) : at_(at), end_(end) {}

  int get(int count) {
    if (count == 0) return 0;
    need(count);
    have_ -= count;
    return static_cast<int>(bits_ >> have_ & ((1u << count) - 1));
  }

  // -1: no code.
  int symbol(const Huffman& table) {
    need(16);
    const int next = static_cast<int>(bits_ >> (have_ - 16) & 0xffff);
    if (const int found = table.fast[next >> (16 - kFast)]) {
      have_ -= found >> 8;
      return found & 0xff;
    }
    for (int length = kFast + 1; length <= 16; ++length)
      if (next < table.end[length]) {
        have_ -= length;
        return table.symbols[(table.offset[length] + (next >> (16 - length))) & 0xff];
      }
    return -1;
  }

  // A number of so many bits, of which the upper half of the range is positive.
  int value(int count) {
    const int raw = get(count);
    return count && raw < 1 << (count - 1) ? raw - (1 << count) + 1 : raw;
  }

  bool exhausted() const { return have_ < made_up_; }

  // Whole bytes behind the current one.
  int64_t left() const { return end_ - at_ + std::max(have_ - made_up_, 0) / 8; }

  // Whether those are padding: all the same, 0 or 255.
  bool padding() const {
    int64_t zeros = 0, ones = 0;
    for (int i = 0; i < (have_ - made_up_) / 8; ++i) {
      const int byte = static_cast<int>(bits_ >> (made_up_ + 8 * i) & 0xff);
      zeros += byte == 0;
      ones += byte == 0xff;
    }
    for (const uint8_t* p = at_; p < end_; ++p) {
      zeros += *p == 0;
      ones += *p == 0xff;
    }
    return zeros >= left() || ones >= left();
  }

 private:
  void need(int count) {
    while (have_ < count) {
      if (at_ < end_) {
        const uint8_t byte = *at_++;
        if (byte == 0xff && at_ < end_ && *at_ == 0) ++at_;
        bits_ = bits_ << 8 | byte;
      } else {
        bits_ <<= 8;
        made_up_ += 8;
      }
      have_ += 8;
    }
  }

  const uint8_t *at_, *end_;
  uint64_t bits_ = 0;
  int have_ = 0, made_up_ = 0;
};

struct Component {
  int id = 0, across = 1, down = 1, quantiser = 0;  // blocks of an MCU
  int64_t columns = 0, rows = 0, stride = 0;        // blocks: of the picture, and in memory
  std::vector<uint64_t> known;                      // progressive: of each block, coefficients that are not 0
  const Huffman *dc = nullptr, *ac = nullptr;
  int previous = 0;
};

struct Scan {
  int first, last, high, low;
  bool progressive;
};

class File {
 public:
  File(const uint8_t* data, size_t size) : at_(data + 2), end_(data + size) {}

  JpegFinding walk() {
    while (end_ - at_ >= 4) {
      if (*at_ != 0xff) {
        ++at_;
        continue;
      }
      const int marker = at_[1];
      if (marker == 0xd9) break;
      if (marker <= 1 || marker == 0xff || (marker >= 0xd0 && marker <= 0xd8)) {
        at_ += marker == 0xff ? 1 : 2;
        continue;
      }
      const int length = at_[2] << 8 | at_[3];
      if (length < 2 || end_ - at_ < length + 2) return {};
      const uint8_t *body = at_ + 4, *stop = at_ + 2 + length;
      at_ = stop;
      bool ours = true;
      if (marker == 0xc4)
        ours = tables(body, stop);
      else if (marker == 0xdb)
        ours = quantisers(body, stop);
      else if (marker == 0xdd && stop - body >= 2)
        interval_ = body[0] << 8 | body[1];
      else if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc8 && marker != 0xcc)
        ours = marker <= 0xc2 && parts_.empty() && frame(marker, body, stop);
      else if (marker == 0xda)
        ours = scan(body, stop);
      if (!ours || found_.fault != JpegFault::kNone) return found_;
    }
    return found_;
  }

 private:
  bool tables(const uint8_t* at, const uint8_t* stop) {
    while (at < stop) {
      if (stop - at < 17) return false;
      int total = 0;
      for (int i = 1; i <= 16; ++i) total += at[i];
      const int kind = at[0] >> 4, number = at[0] & 15;
      if (kind > 1 || number > 3 || total > 256 || stop - at < 17 + total) return false;
      if (!huffman_[kind][number].define(at + 1, at + 17, total)) return false;
      at += 17 + total;
    }
    return true;
  }

  bool quantisers(const uint8_t* at, const uint8_t* stop) {
    while (at < stop) {
      const int wide = at[0] >> 4, number = at[0] & 15, bytes = 64 * (wide + 1);
      if (wide > 1 || number > 3 || stop - at < 1 + bytes) return false;
      for (int k = 0; k < 64; ++k) steps_[number][k] = wide ? at[1 + 2 * k] << 8 | at[2 + 2 * k] : at[1 + k];
      at += 1 + bytes;
    }
    return true;
  }

  bool frame(int marker, const uint8_t* at, const uint8_t* stop) {
    if (stop - at < 6 || at[0] != 8) return false;
    height_ = at[1] << 8 | at[2];
    width_ = at[3] << 8 | at[4];
    const int count = at[5];
    if (!height_ || !width_ || count < 1 || count > 4 || stop - at < 6 + 3 * count) return false;
    progressive_ = marker == 0xc2;
    int widest = 1, tallest = 1;
    for (int i = 0; i < count; ++i) {
      const uint8_t* part = at + 6 + 3 * i;
      Component next;
      next.id = part[0], next.across = part[1] >> 4, next.down = part[1] & 15, next.quantiser = part[2] & 3;
      if (next.across < 1 || next.across > 4 || next.down < 1 || next.down > 4) return false;
      widest = std::max(widest, next.across), tallest = std::max(tallest, next.down);
      parts_.push_back(next);
    }
    across_ = ceil(width_, 8 * widest), down_ = ceil(height_, 8 * tallest);
    for (Component& part : parts_) {
      part.columns = ceil(ceil(static_cast<int64_t>(width_) * part.across, widest), 8);
      part.rows = ceil(ceil(static_cast<int64_t>(height_) * part.down, tallest), 8);
      part.stride = across_ * part.across;
    }
    return true;
  }

  bool scan(const uint8_t* at, const uint8_t* stop) {
    const int count = at < stop ? *at : 0;
    if (parts_.empty() || count < 1 || count > 4 || stop - at < 4 + 2 * count) return false;
    std::vector<Component*> parts;
    const uint8_t* rest = at + 1 + 2 * count;
    Scan scan = {rest[0], rest[1], rest[2] >> 4, rest[2] & 15, progressive_};
    if (!progressive_) scan.first = 0, scan.last = 63, scan.high = scan.low = 0;
    if (scan.first > scan.last || scan.last > 63 || scan.low > 13 || (scan.first && count > 1)) return false;
    if (progressive_ && !scan.first && scan.last) return false;
    for (int i = 0; i < count; ++i) {
      Component* found = nullptr;
      for (Component& part : parts_)
        if (!found && part.id == at[1 + 2 * i]) found = &part;
      if (!found || std::find(parts.begin(), parts.end(), found) != parts.end()) return false;
      found->dc = &huffman_[0][at[2 + 2 * i] >> 4 & 3];
      found->ac = &huffman_[1][at[2 + 2 * i] & 3];
      const bool needs_dc = scan.first == 0 && scan.high == 0, needs_ac = scan.last > 0;
      if ((needs_dc && !found->dc->defined) || (needs_ac && !found->ac->defined)) return false;
      // The decoder takes as much, and has been asked first whether it can.
      if (progressive_ && found->known.empty()) found->known.resize(found->stride * down_ * found->down);
      parts.push_back(found);
    }
    segments(parts, scan);
    return true;
  }

  // The data of a scan, an interval between restart markers after the other.
  void segments(const std::vector<Component*>& parts, const Scan& scan) {
    const bool alone = parts.size() == 1;
    const int64_t units = alone ? parts[0]->columns * parts[0]->rows : across_ * down_;
    int64_t done = 0;
    for (int number = 0; done < units; ++number) {
      const uint8_t *start = at_, *marker = next_marker();
      at_ = marker;
      while (marker > start && marker[-1] == 0xff) --marker;  // fill bytes
      const int64_t until = interval_ ? std::min(done + interval_, units) : units;
      check(parts, scan, Bits(start, marker), done, until);
      if (found_.fault != JpegFault::kNone) {
        found_.at = done, found_.units = units;
        return;
      }
      done = until;
      const bool restart = end_ - at_ >= 2 && at_[1] >= 0xd0 && at_[1] <= 0xd7;
      if (done < units && !restart) found_.fault = JpegFault::kShort;
      if (done < units && restart && at_[1] != 0xd0 + number % 8) found_.fault = JpegFault::kSequence;
      if (done == units && restart && interval_) found_.fault = JpegFault::kLeft;
      if (found_.fault != JpegFault::kNone) {
        found_.at = done, found_.units = units;
        return;
      }
      if (restart) at_ += 2;
    }
  }

  // Where the entropy-coded data from at_ on end: at a marker, which may be a restart, or the file's end.
  const uint8_t* next_marker() const {
    for (const uint8_t* p = at_; p < end_; ++p) {
      if (*p != 0xff) continue;
      const uint8_t* next = p + 1;
      while (next < end_ && *next == 0xff) ++next;
      if (next == end_) return end_;
      if (*next != 0) return next - 1;
      p = next;
    }
    return end_;
  }

  void check(const std::vector<Component*>& parts, const Scan& scan, Bits bits, int64_t from, int64_t to) {
    for (Component* part : parts) part->previous = 0;
    run_ = 0;
    for (int64_t unit = from; unit < to; ++unit) {
      if (parts.size() == 1) {
        Component& part = *parts[0];
        block(part, scan, bits, unit / part.columns * part.stride + unit % part.columns);
      } else {
        const int64_t y = unit / across_, x = unit % across_;
        for (Component* part : parts)
          for (int v = 0; v < part->down; ++v)
            for (int h = 0; h < part->across; ++h)
              block(*part, scan, bits, (y * part->down + v) * part->stride + x * part->across + h);
      }
      if (bits.exhausted()) found_.fault = JpegFault::kShort;
      if (found_.fault != JpegFault::kNone) return;
    }
    if (run_ > 0) found_.fault = JpegFault::kCode;
    found_.left = bits.left();
    if (found_.left > 0 && !bits.padding())
      found_.fault = JpegFault::kLeft;
    else if (found_.left > kPadding)
      found_.fault = JpegFault::kPadding;
  }

  void block(Component& part, const Scan& scan, Bits& bits, int64_t index) {
    if (!scan.progressive) {
      first_dc(part, scan, bits, nullptr);
      first_ac(part, 1, scan, bits, nullptr);
      return;
    }
    uint64_t& known = part.known[index];
    if (scan.first == 0)
      scan.high ? void(bits.get(1)) : first_dc(part, scan, bits, &known);
    else if (scan.high == 0)
      first_ac(part, scan.first, scan, bits, &known);
    else
      refine_ac(part, scan, bits, known);
  }

  void first_dc(Component& part, const Scan& scan, Bits& bits, uint64_t*) {
    const int size = bits.symbol(*part.dc);
    if (size < 0 || size > 11) return fail(JpegFault::kCode, bits);
    part.previous += bits.value(size);
    const int step = steps_[part.quantiser][0];
    if (std::abs(int64_t{part.previous} << scan.low) * step > kLargestDc + (int64_t{step} << scan.low))
      fail(JpegFault::kRange, bits);
  }

  void first_ac(Component& part, int k, const Scan& scan, Bits& bits, uint64_t* known) {
    if (run_ > 0) {
      --run_;
      return;
    }
    for (; k <= scan.last; ++k) {
      const int symbol = bits.symbol(*part.ac), run = symbol >> 4, size = symbol & 15;
      if (symbol < 0) return fail(JpegFault::kCode, bits);
      if (size == 0 && run < 15) {
        if (run > 0 && !known) return fail(JpegFault::kCode, bits);
        if (run > 0) run_ = (1 << run) + bits.get(run) - 1;
        return;
      }
      k += run;
      if (k > scan.last || size > 10) return fail(JpegFault::kCode, bits);
      if (size == 0) continue;
      const int64_t value = std::abs(int64_t{bits.value(size)} << scan.low), step = steps_[part.quantiser][k];
      if (value * step > kLargestAc + (step << scan.low)) return fail(JpegFault::kRange, bits);
      if (known) *known |= uint64_t{1} << k;
    }
  }

  void refine_ac(Component& part, const Scan& scan, Bits& bits, uint64_t& known) {
    int k = scan.first;
    const auto pass_known = [&] { return known >> k & 1 ? bits.get(1), true : false; };
    for (; run_ == 0 && k <= scan.last; ++k) {
      const int symbol = bits.symbol(*part.ac), size = symbol & 15;
      int skip = symbol >> 4;
      if (symbol < 0 || size > 1) return fail(JpegFault::kCode, bits);
      if (size == 0 && skip < 15) {
        run_ = (1 << skip) + bits.get(skip);
        break;
      }
      if (size) bits.get(1);
      for (; k <= scan.last; ++k)
        if (!pass_known() && --skip < 0) break;
      if (size && k > scan.last) return fail(JpegFault::kCode, bits);
      if (size) known |= uint64_t{1} << k;
    }
    if (run_ > 0) {
      for (; k <= scan.last; ++k) pass_known();
      --run_;
    }
  }

  // A code that only the end of the data makes wrong is the end's fault.
  void fail(JpegFault fault, const Bits& bits) {
    if (found_.fault == JpegFault::kNone) found_.fault = bits.exhausted() ? JpegFault::kShort : fault;
  }

  static int64_t ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

  const uint8_t *at_, *end_;
  JpegFinding found_;
  std::array<std::array<Huffman, 4>, 2> huffman_;  // DC, AC
  std::array<std::array<int, 64>, 4> steps_{};
  std::vector<Component> parts_;
  bool progressive_ = false;
  int height_ = 0, width_ = 0, interval_ = 0;
  int64_t across_ = 0, down_ = 0;  // MCUs
  int64_t run_ = 0;                // blocks that are still at their end
};

}  // namespace

JpegFinding check_jpeg(const uint8_t* data, size_t size) {
  if (size < 4 || data[0] != 0xff || data[1] != 0xd8) return {};
  return File(data, size).walk();
}

}  // namespace seemore
