// What cudasim knows of every byte that a kernel touches: whose it is, whether it was written, and by whom.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cudasim {

// The running thread, as far as memory is concerned.
struct Accessor {
  int thread, warp;
  uint32_t block_epoch;  // counts barriers
  uint32_t warp_epoch;   // counts __syncwarp of its warp
};

// Shared memory's shadow: last write and last reads of each 16 bits. Two accesses of different threads, one
// of them a write, must be separated by a barrier of the block, or of the warp if they belong to one.
class SharedShadow {
 public:
  // A new block: everything unwritten. Epochs count on from `epoch`.
  void reset(size_t bytes, uint32_t epoch);
  // nullptr or what is wrong, until the next fault in this thread.
  const std::string* access(size_t offset, size_t bytes, bool write, const Accessor& by) {
    // Also below the beginning, where the offset has wrapped around.
    if (offset >= bytes_ || bytes > bytes_ - offset) return outside(offset, bytes, write);
    for (size_t i = offset / 2; i < (offset + bytes + 1) / 2; ++i)
      if (!(write ? cells_[i].write(by) : cells_[i].read(by, first_epoch_))) return fault(i, write, by);
    return nullptr;
  }

 private:
  enum Readers : uint16_t { kNone, kOne, kWarp, kSeveral };
  struct Cell {
    uint32_t write_block = 0, write_warp = 0, read_block = 0, read_warp = 0;
    uint16_t writer = 0, reader = 0;
    Readers readers = kNone;

    // Another thread has written since the last barrier.
    bool written_by_others(const Accessor& by) const {
      return write_block == by.block_epoch && writer != by.thread &&
             (writer / 32 != by.warp || write_warp >= by.warp_epoch);
    }
    bool read_by_others(const Accessor& by) const {
      return read_block == by.block_epoch && readers != kNone && !(readers == kOne && reader == by.thread) &&
             (readers == kSeveral || reader / 32 != by.warp || read_warp >= by.warp_epoch);
    }
    // Whether this is right, and then that it has been.
    bool read(const Accessor& by, uint32_t first_epoch) {
      if (write_block < first_epoch || written_by_others(by)) return false;
      if (read_block != by.block_epoch || readers == kNone || (readers == kOne && reader == by.thread))
        readers = kOne;
      else
        readers = readers != kSeveral && reader / 32 == by.warp ? kWarp : kSeveral;
      read_block = by.block_epoch;
      read_warp = by.warp_epoch;
      reader = by.thread;
      return true;
    }
    bool write(const Accessor& by) {
      if (written_by_others(by) || read_by_others(by)) return false;
      write_block = by.block_epoch;
      write_warp = by.warp_epoch;
      writer = by.thread;
      return true;
    }
  };
  const std::string* outside(size_t offset, size_t bytes, bool write) const;
  const std::string* fault(size_t cell, bool write, const Accessor& by) const;
  std::vector<Cell> cells_;
  size_t bytes_ = 0;
  uint32_t first_epoch_ = 1;
};

// Global memory: the ranges that exist, and which block last wrote each 32 bits in the running launch.
class GlobalMemory {
 public:
  void add(const void* address, size_t bytes, const char* name, bool writable);
  void clear() { ranges_.clear(); }
  void begin_launch() { ++launch_; }
  // As above.
  const std::string* access(uintptr_t address, size_t bytes, bool write, uint32_t block);

 private:
  struct Range {
    uintptr_t begin, end;
    std::string name;
    bool writable;
    std::vector<uint64_t> writer;  // launch << 32 | block
  };
  std::string nearest(uintptr_t address) const;  // "8 bytes behind NAME"
  std::vector<Range> ranges_;
  uint32_t launch_ = 0;
};

}  // namespace cudasim
