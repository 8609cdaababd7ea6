// Checks of single accesses, and how many passes the hardware needs for those of a warp.
#include "cudasim/ptx/block.h"

#include <algorithm>

namespace cudasim::ptx {
namespace {

constexpr int kBanks = 32;  // of 4 bytes each
constexpr int kLine = 128, kSector = 32;

// Different values of address / unit that the lanes first..last touch.
int distinct(uint32_t mask, const uint64_t (&address)[kLanes], int bytes, int unit) {
  std::vector<uint64_t> units;
  for (int i = 0; i < kLanes; ++i)
    if (mask >> i & 1)
      for (uint64_t u = address[i] / unit; u <= (address[i] + bytes - 1) / unit; ++u) units.push_back(u);
  std::sort(units.begin(), units.end());
  return (int)(std::unique(units.begin(), units.end()) - units.begin());
}

}  // namespace

void Count::add(const Count& other, double times) {
  issued += times * other.issued;
  lanes += times * other.lanes;
  wavefronts += times * other.wavefronts;
  ideal += times * other.ideal;
  sectors += times * other.sectors;
}

bool Block::is_shared(uint64_t address) const {
  return address - reinterpret_cast<uint64_t>(shared) < shared_bytes;
}

static void check_alignment(const Warp& w, int lane, uint64_t address, size_t bytes, bool write) {
  if (address % bytes)
    w.fail((write ? "misaligned write of " : "misaligned read of ") + std::to_string(bytes) + " bytes", lane);
}

unsigned char* Block::shared_at(const Warp& w, int lane, uint64_t address, size_t bytes, bool write) {
  check_alignment(w, lane, address, bytes, write);
  if (check || address > shared_bytes || address + bytes > shared_bytes) {
    const std::string* wrong = shadow.access((size_t)(int64_t)(int32_t)address, bytes, write,
                                             {32 * w.number + lane, w.number, epoch, w.epoch});
    if (wrong) w.fail(*wrong, lane);
  }
  return shared + address;
}

unsigned char* Block::global_at(const Warp& w, int lane, uint64_t address, size_t bytes, bool write) {
  check_alignment(w, lane, address, bytes, write);
  if (check) {
    const std::string* wrong = memory->access(address, bytes, write, number);
    if (wrong) w.fail(*wrong, lane);
  }
  return reinterpret_cast<unsigned char*>(address);
}

const unsigned char* Block::param_at(const Warp& w, int lane, uint64_t address, size_t bytes) const {
  const auto* at = reinterpret_cast<const unsigned char*>(address);
  check_alignment(w, lane, address, bytes, false);
  if (at < params || at + bytes > params + param_bytes) w.fail("read outside the kernel's parameters", lane);
  return at;
}

// Lanes go in groups that together may ask for 128 bytes; a pass serves one word of each bank, to all lanes.
void Block::count_shared(int step, uint32_t mask, const uint64_t (&address)[kLanes], int bytes) {
  if (!measure) return;
  const int together = std::min(kLanes, kLine / bytes);
  for (int first = 0; first < kLanes; first += together) {
    std::vector<uint64_t> words;
    for (int i = first; i < first + together; ++i)
      if (mask >> i & 1)
        for (uint64_t word = address[i] / 4; word <= (address[i] + bytes - 1) / 4; ++word)
          words.push_back(word);
    if (words.empty()) continue;
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    int in_bank[kBanks] = {};
    for (const uint64_t word : words) ++in_bank[word % kBanks];
    counts[step].wavefronts += *std::max_element(in_bank, in_bank + kBanks);
    ++counts[step].ideal;
  }
}

void Block::count_global(int step, uint32_t mask, const uint64_t (&address)[kLanes], int bytes) {
  if (!measure) return;
  const int sectors = count_sectors(step, mask, address, bytes);
  counts[step].wavefronts += distinct(mask, address, bytes, kLine);
  counts[step].ideal += (sectors + kLine / kSector - 1) / (kLine / kSector);
}

int Block::count_sectors(int step, uint32_t mask, const uint64_t (&address)[kLanes], int bytes) {
  if (!measure) return 0;
  const int sectors = distinct(mask, address, bytes, kSector);
  counts[step].sectors += sectors;
  return sectors;
}

}  // namespace cudasim::ptx
