#include "cudasim/memory.h"

#include <atomic>

namespace cudasim {
namespace {

__attribute__((noinline)) const std::string* tell(std::string what) {
  thread_local std::string told;
  told = std::move(what);
  return &told;
}

// Of GlobalMemory: most accesses are to the one of the access before.
__attribute__((tls_model("initial-exec"))) thread_local size_t last_range = 0;

}  // namespace

void SharedShadow::reset(size_t bytes, uint32_t epoch) {
  bytes_ = bytes;
  first_epoch_ = epoch;  // older stamps count as never
  if (cells_.size() < (bytes + 1) / 2) cells_.resize((bytes + 1) / 2);
}

const std::string* SharedShadow::outside(size_t offset, size_t bytes, bool write) const {
  return tell((write ? "write of " : "read of ") + std::to_string(bytes) + " bytes at " +
              std::to_string((ptrdiff_t)offset) + ", outside the " + std::to_string(bytes_) +
              " bytes of shared memory");
}

const std::string* SharedShadow::fault(size_t i, bool write, const Accessor& by) const {
  const Cell& cell = cells_[i];
  const std::string where = "shared memory at byte " + std::to_string(2 * i);
  if (!write && cell.write_block < first_epoch_) return tell("read of unwritten " + where);
  const bool written = cell.written_by_others(by);
  return tell((!written ? "write to "
               : write  ? "second write to "
                        : "read of ") +
              where + ", which thread " + std::to_string(written ? cell.writer : cell.reader) +
              (written ? " has written" : " has read") + " since the last barrier");
}

void GlobalMemory::add(const void* address, size_t bytes, const char* name, bool writable) {
  const auto begin = reinterpret_cast<uintptr_t>(address);
  ranges_.push_back(
      {begin, begin + bytes, name, writable, std::vector<uint64_t>(writable ? bytes / 4 + 2 : 0)});
}

std::string GlobalMemory::nearest(uintptr_t address) const {
  const Range* best = nullptr;
  auto distance = [&](const Range& r) { return address < r.begin ? r.begin - address : address - r.end; };
  for (const Range& range : ranges_)
    if (!best || distance(range) < distance(*best)) best = &range;
  if (!best) return "none";
  return address < best->begin ? std::to_string(best->begin - address) + " bytes before " + best->name
                               : std::to_string(address - best->end) + " bytes behind " + best->name;
}

const std::string* GlobalMemory::access(uintptr_t address, size_t bytes, bool write, uint32_t block) {
  for (size_t i = 0; i < ranges_.size(); ++i) {
    if (last_range >= ranges_.size()) last_range = 0;
    Range& range = ranges_[last_range];
    if (address < range.begin || address + bytes > range.end) {
      ++last_range;
      continue;
    }
    if (!range.writable) return write ? tell("write to " + range.name + ", which is read-only") : nullptr;
    const uint64_t mine = (uint64_t)launch_ << 32 | block;
    for (size_t word = (address - range.begin) / 4; word <= (address + bytes - 1 - range.begin) / 4; ++word) {
      std::atomic_ref<uint64_t> writer(range.writer[word]);
      const uint64_t last = writer.load(std::memory_order_relaxed);
      // Blocks may share a word whose bytes or halves they write apart.
      if (last >> 32 == launch_ && last != mine && (!write || bytes >= 4))
        return tell((write ? "write to " : "read of ") + range.name + " at byte " + std::to_string(4 * word) +
                    ", which block " + std::to_string((uint32_t)last) + " writes in the same launch");
      if (write) writer.store(mine, std::memory_order_relaxed);
    }
    return nullptr;
  }
  return tell(std::string(write ? "write of " : "read of ") + std::to_string(bytes) +
              " bytes outside every buffer of global memory, nearest: " + nearest(address));
}

}  // namespace cudasim
