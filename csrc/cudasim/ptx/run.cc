// Launches of PTX kernels: warps in lockstep with a stack of branches that have not met again, barriers,
// order.
#include "cudasim/ptx/run.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>

#include "cudasim/ptx/assemble.h"
#include "cudasim/ptx/sample.h"
#include "cudasim/settings.h"

namespace cudasim::ptx {
namespace {

std::deque<Module> modules;
std::deque<Program> programs;
bool in_use = false;
std::function<void(const std::string&)> ask_for;
uint32_t most_blocks = 0;
std::vector<Measured> launches;

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string text(Dim3 d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

// Lanes that go on at `step`, until they reach `join` and become one with the entry below.
struct Way {
  int step;
  uint32_t mask;
  int join;
};

struct Runner : Warp {
  std::vector<Way> ways;
  int waits_at = -1;  // step of the barrier where it waits
  bool done = false;
};

class Worker {
 public:
  Worker(const Program& program, Dim3 grid, Dim3 dims, size_t shared_bytes, const void* params)
      : program_(program), grid_(grid), dims_(dims) {
    const int threads = (int)(dims.x * dims.y * dims.z);
    block_.memory = &global_memory();
    block_.shared_bytes = shared_bytes;
    shared_.resize(shared_bytes + 256);
    block_.shared = shared_.data() + (256 - reinterpret_cast<uintptr_t>(shared_.data()) % 256);
    block_.check = checking();
    block_.measure = most_blocks > 0;
    block_.params = static_cast<const unsigned char*>(params);
    block_.param_bytes = program.param_bytes;
    block_.counts.resize(program.steps.size());
    warps_.resize((threads + kLanes - 1) / kLanes);
    registers_.resize(warps_.size() * program.register_bytes + 64);
    unsigned char* at = registers_.data() + (64 - reinterpret_cast<uintptr_t>(registers_.data()) % 64);
    for (size_t i = 0; i < warps_.size(); ++i, at += program.register_bytes) {
      warps_[i].block = &block_;
      warps_[i].number = (int)i;
      warps_[i].registers = at;
      prepare(warps_[i]);
    }
    threads_ = threads;
  }

  std::string run(uint32_t number, std::mt19937_64& random) {
    block_.number = number;
    at_ = {number % grid_.x, number / grid_.x % grid_.y, number / grid_.x / grid_.y};
    ++block_.epoch;
    memset(block_.shared, 0xff, block_.shared_bytes);
    block_.shadow.reset(block_.shared_bytes, block_.epoch);
    for (Runner& w : warps_) {
      const int lanes = std::min(kLanes, threads_ - kLanes * w.number);
      w.alive = lanes == kLanes ? kAll : (1u << lanes) - 1;
      w.ways = {{0, w.alive, (int)program_.steps.size()}};
      w.done = false;
      w.waits_at = -1;
      for (const auto& [name, slot] : program_.specials)
        if (name.rfind("%ctaid", 0) == 0)
          for (int i = 0; i < kLanes; ++i) put(w.registers + slot, i, part(at_, name));
    }
    std::vector<Runner*> order(warps_.size());
    for (size_t i = 0; i < warps_.size(); ++i) order[i] = &warps_[i];
    try {
      for (size_t done = 0; done < warps_.size();) {
        if (order_seed()) std::shuffle(order.begin(), order.end(), random);
        for (Runner* w : order)
          if (!w->done && w->waits_at < 0) {
            advance(*w);
            done += w->done;
          }
        if (done < warps_.size()) release();
      }
    } catch (const Failure& failure) {
      return program_.name + ", block " + text(at_) + failure.what();
    }
    return "";
  }

  // Adds what it has counted to these, so many times, and begins anew.
  void give_counts(std::vector<Count>& sums, double times) {
    if (!block_.measure) return;
    for (size_t i = 0; i < sums.size(); ++i) sums[i].add(block_.counts[i], times);
    std::fill(block_.counts.begin(), block_.counts.end(), Count());
  }

 private:
  static uint32_t part(Dim3 d, const std::string& name) {
    return name.back() == 'x' ? d.x : name.back() == 'y' ? d.y : d.z;
  }

  void prepare(Runner& w) {
    for (const auto& c : program_.constants)
      for (int i = 0; i < kLanes; ++i) {
        if (c.lane_bytes == 0)
          put_mask(w.registers + c.slot, (uint32_t)c.value, kAll);
        else if (c.lane_bytes == 8)
          put(w.registers + c.slot, i, c.value);
        else
          put(w.registers + c.slot, i, (uint32_t)c.value);
      }
    for (const auto& p : program_.params)
      for (int i = 0; i < kLanes; ++i)
        put(w.registers + p.slot, i, reinterpret_cast<uint64_t>(block_.params + p.at));
    for (const auto& [name, slot] : program_.specials)
      for (int i = 0; i < kLanes; ++i) {
        const unsigned thread = kLanes * w.number + i;
        const Dim3 index = {thread % dims_.x, thread / dims_.x % dims_.y, thread / dims_.x / dims_.y};
        uint32_t value = 0;
        if (name.rfind("%tid.", 0) == 0)
          value = part(index, name);
        else if (name.rfind("%ntid.", 0) == 0)
          value = part(dims_, name);
        else if (name.rfind("%nctaid.", 0) == 0)
          value = part(grid_, name);
        else if (name == "%laneid")
          value = i;
        else if (name == "%warpid")
          value = w.number;  // %ctaid: when a block begins
        put(w.registers + slot, i, value);
      }
  }

  [[noreturn]] void fail(const Runner& w, const Step& s, const std::string& what) const {
    w.fail(what + " at PTX line " + std::to_string(s.line), std::countr_zero(w.mask));
  }

  uint32_t guard(const Runner& w, const Step& s, uint32_t mask) const {
    if (!s.guarded) return mask;
    uint32_t bits;
    memcpy(&bits, w.registers + s.guard, 4);
    return mask & (s.guard_negated ? ~bits : bits);
  }

  // Runs a warp until it waits at a barrier or ends.
  void advance(Runner& w) {
    while (!w.ways.empty()) {
      Way& way = w.ways.back();
      if (way.step == way.join || way.mask == 0 || way.step == (int)program_.steps.size()) {
        const bool ends = way.step == (int)program_.steps.size() && w.ways.size() == 1;
        w.ways.pop_back();
        if (ends) break;
        continue;
      }
      const Step& s = program_.steps[way.step];
      w.mask = guard(w, s, way.mask);
      Count& count = block_.counts[s.number];
      ++count.issued;
      count.lanes += std::popcount(w.mask);
      switch (program_.control[s.number]) {
        case kNone:
          ++way.step;
          if (w.mask == 0) break;
          if (s.full && w.mask != kAll) fail(w, s, "part of a warp executes " + program_.opcodes[s.number]);
          s.run(w, s);
          break;
        case kBranch:
          branch(w, s);
          break;
        case kReturn:
          ++way.step;
          w.alive &= ~w.mask;
          for (Way& other : w.ways) other.mask &= w.alive;
          break;
        case kBarrier:
          ++way.step;
          if (w.mask != w.alive || w.alive != full(w)) fail(w, s, "divergent barrier: part of a warp waits");
          w.waits_at = s.number;
          return;
        case kTrap:
          if (w.mask) fail(w, s, "trap");
          ++way.step;
      }
    }
    w.done = true;
  }

  uint32_t full(const Runner& w) const {
    const int lanes = std::min(kLanes, threads_ - kLanes * w.number);
    return lanes == kLanes ? kAll : (1u << lanes) - 1;
  }

  void branch(Runner& w, const Step& s) {
    Way& way = w.ways.back();
    const uint32_t stay = way.mask & ~w.mask;
    if (stay == 0) {
      way.step = s.target;
    } else if (w.mask == 0) {
      ++way.step;
    } else {
      const int join = s.join, next = way.step + 1;
      way.step = join;
      const uint32_t taken = w.mask;
      w.ways.push_back({next, stay, join});
      w.ways.push_back({s.target, taken, join});
    }
  }

  // All warps wait at the same barrier: they go on.
  void release() {
    const Runner* first = nullptr;
    for (const Runner& w : warps_) {
      if (w.done) continue;
      if (!first) first = &w;
      if (w.waits_at != first->waits_at)
        fail(w, program_.steps[w.waits_at],
             "divergent barrier: others wait at PTX line " +
                 std::to_string(program_.steps[first->waits_at].line) + ", this warp waits");
    }
    for (const Runner& w : warps_)
      if (w.done)
        fail(*first, program_.steps[first->waits_at], "deadlock. Some warps have ended, others wait");
    for (Runner& w : warps_) w.waits_at = -1;
    ++block_.epoch;
  }

  const Program& program_;
  Dim3 grid_, dims_, at_;
  int threads_;
  Block block_;
  std::vector<unsigned char> shared_, registers_;
  std::vector<Runner> warps_;
};

}  // namespace

void Warp::fail(const std::string& message, int lane) const {
  throw Failure((lane < 0 ? "" : ", thread (" + std::to_string(kLanes * number + lane) + ", 0, 0)") + ": " +
                message);
}

void load(const std::string& source, const std::string& program) {
  in_use = true;
  modules.push_back(parse(source));
  for (const Kernel& kernel : modules.back().kernels) {
    programs.push_back(assemble(modules.back(), kernel));
    if (!program.empty()) programs.back().name = program + " " + programs.back().name;
  }
}

void unload_all() {
  in_use = false;
  programs.clear();
  modules.clear();
}

void use(bool ptx) { in_use = ptx; }
bool used() { return in_use; }

void measure(uint32_t most) {
  most_blocks = most;
  launches.clear();
}
const std::vector<Measured>& measured() { return launches; }

void when_missing(std::function<void(const std::string&)> ask) { ask_for = std::move(ask); }

namespace {

const Program* loaded_as(const std::string& name) {
  for (const Program& p : programs)
    if (p.name == name || p.mangled == name) return &p;
  return nullptr;
}

}  // namespace

const Program* find(const std::string& name) {
  const Program* found = loaded_as(name);
  if (found || !ask_for) return found;
  ask_for(name);
  return loaded_as(name);
}

std::string run(const Program& program, Dim3 grid, Dim3 block, size_t shared_bytes, const void* params,
                size_t param_bytes) {
  if (program.param_bytes != param_bytes)
    return program.name + " takes " + std::to_string(program.param_bytes) + " bytes of parameters, got " +
           std::to_string(param_bytes);
  global_memory().begin_launch();
  const size_t shared = program.static_shared + shared_bytes;
  std::vector<Sampled> order = sample(grid.x * grid.y, grid.z, grid.x, most_blocks);
  std::mt19937_64 random(order_seed());
  if (order_seed()) std::shuffle(order.begin(), order.end(), random);

  std::atomic<uint32_t> next = 0;
  std::mutex lock;
  std::string error;
  std::vector<Count> counts(program.steps.size());  // as if all blocks had been run
  auto work = [&](uint64_t number) {
    std::mt19937_64 mine(order_seed() * 1000003 + number);
    Worker worker(program, grid, block, shared, params);
    for (uint32_t i; (i = next++) < order.size();) {
      const std::string wrong = worker.run(order[i].block, mine);
      std::lock_guard<std::mutex> hold(lock);
      worker.give_counts(counts, order[i].stands_for);
      if (wrong.empty()) continue;
      if (error.empty()) error = wrong;
      next = (uint32_t)order.size();
    }
  };
  const uint32_t workers =
      std::min((uint32_t)order.size(), std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> others;
  for (uint32_t i = 1; i < workers; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
  if (most_blocks) {
    Measured m{program.name, program.mangled, grid, block.x, shared, (uint32_t)order.size(), {}};
    for (size_t i = 0; i < counts.size(); ++i)
      m.lines.push_back({program.steps[i].line, program.opcodes[i], counts[i]});
    launches.push_back(std::move(m));
  }
  return error;
}

}  // namespace cudasim::ptx
