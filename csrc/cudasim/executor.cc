// Fibers, barriers and the order in which everything runs.
#include "cudasim/executor.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "cudasim/settings.h"
#include "cudasim/worker.h"

namespace cudasim {
namespace {

uint64_t seed_set = 0;
bool check_set = true;

std::string text(Dim3 d) {
  return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
}

std::string text(const Site& site) {
  const char* slash = strrchr(site.file, '/');
  return std::string(site.what) + " at " + (slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

bool same(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

// Workers that wait for the next launch: their stacks and shadows are in memory already.
std::mutex idle_lock;
std::vector<std::unique_ptr<Worker>> idle;

std::unique_ptr<Worker> take_worker() {
  std::lock_guard<std::mutex> hold(idle_lock);
  if (idle.empty()) return std::make_unique<Worker>();
  std::unique_ptr<Worker> worker = std::move(idle.back());
  idle.pop_back();
  return worker;
}

void give_back(std::unique_ptr<Worker> worker) {
  std::lock_guard<std::mutex> hold(idle_lock);
  idle.push_back(std::move(worker));
}

void enter() {
  self->launch->body(self->launch->context);
  ++self->done;
  self->wait(State::kDone, {"", "", 0});
  __builtin_unreachable();
}

}  // namespace

thread_local Worker* self = nullptr;

std::string Worker::where() const {
  return std::string(launch->kernel) + ", block " + text(block) +
         (running < 0 ? "" : ", thread " + text(index(running)));
}

std::string Worker::who_waits() const {
  std::string found = where() + ": deadlock.";
  std::vector<std::pair<Site, int>> sites;
  int done = 0;
  for (const Fiber& fiber : fibers) {
    if (fiber.state == State::kDone) {
      ++done;
      continue;
    }
    auto known = std::find_if(sites.begin(), sites.end(), [&](auto& s) { return same(s.first, fiber.site); });
    if (known == sites.end())
      sites.push_back({fiber.site, 1});
    else
      ++known->second;
  }
  for (auto& [site, count] : sites) {
    int first = 0;
    while (fibers[first].state == State::kDone || !same(fibers[first].site, site)) ++first;
    found += " " + std::to_string(count) + " threads, the first " + text(index(first)) + ", wait in " +
             text(site) + ";";
  }
  return found + " " + std::to_string(done) + " have ended.";
}

void Worker::run_block(Dim3 at, uint32_t number, std::mt19937_64& random) {
  block = at;
  block_number = number;
  at_barrier = 0;
  ++epoch;
  memset(shared_memory, 0xff, launch->shared_bytes);
  shadow.reset(launch->shared_bytes, epoch);
  fibers.assign(threads, {});
  warps.assign((threads + kWarp - 1) / kWarp, {});
  for (int i = 0; i < threads; ++i) {
    fibers[i].index = index(i);
    // Not all at the same sets of the cache.
    fibers[i].stack_pointer = prepare_stack(stacks + i * kStack, kStack - i % kWarp * 1088, enter);
  }

  std::vector<int> warp_order(warps.size());
  std::iota(warp_order.begin(), warp_order.end(), 0);
  std::iota(lane_order.begin(), lane_order.end(), 0);
  done = 0;
  while (done < threads) {
    if (order_seed()) {
      std::shuffle(warp_order.begin(), warp_order.end(), random);
      std::shuffle(lane_order.begin(), lane_order.end(), random);
    }
    bool progress = false;
    for (const int warp : warp_order) {
      // A warp goes on until it meets a barrier: few others wait for memory meanwhile.
      first = warp * kWarp;
      position = 0;
      running = next();
      if (running < 0) continue;
      progress = true;
      cudasim_switch(&stack_pointer, fibers[running].stack_pointer);
      running = -1;
      if (!error.empty()) return;
    }
    if (!progress) {
      error = who_waits();
      return;
    }
  }
}

namespace {

void require_full(const Site& site, unsigned mask) {
  if (mask != 0xffffffffu) fail(std::string(site.what) + " with a mask that is not full");
}

void release(int first, int last) {
  for (int i = first; i < last; ++i) self->fibers[i].state = State::kReady;
}

}  // namespace

void configure(uint64_t seed, bool check) {
  seed_set = seed;
  check_set = check;
}

uint64_t order_seed() { return seed_set; }
bool checking() { return check_set; }
GlobalMemory& global_memory() {
  static GlobalMemory memory;
  return memory;
}

void add_memory(const void* address, size_t bytes, const char* name, bool writable) {
  global_memory().add(address, bytes, name, writable);
}

void clear_memory() { global_memory().clear(); }

std::string run(const Launch& launch) {
  const Dim3 g = launch.grid, b = launch.block;
  const int threads = b.x * b.y * b.z;
  const uint32_t blocks = g.x * g.y * g.z;
  if (threads < 1 || threads > kMostThreads || blocks < 1 || launch.shared_bytes > kSharedRoom / 2)
    return std::string(launch.kernel) + ": grid " + text(g) + " of blocks " + text(b) + " cannot be launched";
  global_memory().begin_launch();
  std::vector<uint32_t> order(blocks);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(order_seed());
  if (order_seed()) std::shuffle(order.begin(), order.end(), random);

  std::atomic<uint32_t> next = 0;
  std::mutex lock;
  std::string error;
  auto work = [&](uint64_t number) {
    std::unique_ptr<Worker> worker = take_worker();
    self = worker.get();
    self->launch = &launch;
    self->threads = threads;
    self->checks = check_set;
    self->error.clear();
    std::mt19937_64 mine(order_seed() * 1000003 + number);
    for (uint32_t i; (i = next++) < blocks;) {
      const uint32_t at = order[i];
      self->run_block({at % g.x, at / g.x % g.y, at / g.x / g.y}, at, mine);
      if (!self->error.empty()) {
        std::lock_guard<std::mutex> hold(lock);
        if (error.empty()) error = self->error;
        next = blocks;
      }
    }
    self = nullptr;
    give_back(std::move(worker));
  };
  const uint32_t workers = std::min(blocks, std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> others;
  for (uint32_t i = 1; i < workers; ++i) others.emplace_back(work, i);
  work(0);
  for (std::thread& other : others) other.join();
  return error;
}

Dim3 thread_idx() { return self->fibers[self->running].index; }
Dim3 block_idx() { return self->block; }
Dim3 block_dim() { return self->launch->block; }
Dim3 grid_dim() { return self->launch->grid; }
int lane() { return self->running % kWarp; }

unsigned char* shared() { return self->shared_memory; }

void fail(const std::string& message) {
  self->error = self->where() + ": " + message;
  cudasim_switch(&self->fibers[self->running].stack_pointer, self->stack_pointer);
}

void barrier(Site site) {
  if (self->at_barrier == 0)
    self->barrier_site = site;
  else if (!same(site, self->barrier_site))
    fail("divergent barrier: this thread is in " + text(site) + ", others wait in " +
         text(self->barrier_site));
  if (++self->at_barrier < self->threads) return self->wait(State::kAtBarrier, site);
  self->at_barrier = 0;
  ++self->epoch;
  release(0, self->threads);
}

const uint32_t* exchange(Site site, const uint32_t* words, int count, Combine combine) {
  Worker& worker = *self;
  const int number = worker.running / kWarp, lane_number = worker.running % kWarp;
  Warp& warp = worker.warps[number];
  Fiber& fiber = worker.fibers[worker.running];
  // Two sets, in turn: a lane that enters the next exchange cannot overwrite what others still read.
  uint32_t* all = warp.words[fiber.slot ^= 1];
  memcpy(all + lane_number * count, words, count * sizeof *words);
  if (warp.arrived == 0)
    warp.site = site;
  else if (!same(site, warp.site))
    fail("divergent warp: this thread is in " + text(site) + ", others wait in " + text(warp.site));
  if (++warp.arrived < kWarp) {
    worker.wait(State::kInWarp, site);
  } else {
    warp.arrived = 0;
    if (combine) combine(all, all + kWarp * count);
    release(number * kWarp, std::min((number + 1) * kWarp, worker.threads));
  }
  return combine ? all + kWarp * count : all;
}

float shuffle(Site site, unsigned mask, float value, int source) {
  require_full(site, mask);
  uint32_t bits;
  memcpy(&bits, &value, 4);
  memcpy(&value, exchange(site, &bits, 1) + source, 4);
  return value;
}

unsigned ballot(Site site, unsigned mask, bool bit) {
  require_full(site, mask);
  const uint32_t mine = bit;
  const uint32_t* all = exchange(site, &mine, 1);
  unsigned bits = 0;
  for (int i = 0; i < kWarp; ++i) bits |= all[i] << i;
  return bits;
}

void warp_barrier(Site site) {
  Warp& warp = self->warps[self->running / kWarp];
  const uint32_t epoch = warp.epoch;
  exchange(site, nullptr, 0);
  warp.epoch = epoch + 1;  // the same for all lanes, whoever comes first
}

}  // namespace cudasim
