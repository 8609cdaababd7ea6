// Chooses tiles by a simple model: waves of blocks, each as long as the pixels it computes, halo included.
#include "cuda/engine/plan.h"

#include <algorithm>

namespace seemore {
namespace cuda {
namespace {

constexpr int kSides[][2] = {{16, 32}, {16, 16}, {8, 32}, {8, 16}, {8, 8}};
constexpr int kMostBlocks = 256;    // whose logits every block of the second half adds
constexpr int kLeastPooled = 64;    // pixels of a block that sums a wide network's logits
constexpr int kBlocksAtOnce = 3;    // on a multiprocessor: more would need fewer registers
constexpr size_t kReserved = 1024;  // bytes of shared memory that the system takes per block

int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// The cheapest tile; bytes(th, tw) of shared memory, pixels(th, tw) to compute.
template <class Bytes, class Work>
Step choose(const Network& net, const DeviceInfo& device, int n, int h, int w, Bytes bytes, Work work) {
  Step best = {};
  double least = 0;
  for (const auto& [th, tw] : kSides) {
    const size_t shared = bytes(th, tw);
    if (shared > device.shared_limit) continue;
    const Tiling at = {h, w, net.dim, th, tw, ceil_divide(w, tw), ceil_divide(w, tw) * ceil_divide(h, th)};
    const int together =
        std::clamp<int>((int)(device.shared_per_processor / (shared + kReserved)), 1, kBlocksAtOnce);
    const double waves = ceil_divide(at.count * n, device.multiprocessors * together);
    // A block alone on its multiprocessor has nobody to work while it waits for memory.
    const double cost = waves * together * work(th, tw) * (together == 1 ? 1.5 : 1);
    if (!best.shared || cost < least) {
      best = {at, shared};
      least = cost;
    }
  }
  return best;
}

// Samples of the last level that a tile with halo 1 needs: neighbours and rounding included.
int samples(int tile, int low, int size) { return (int)((double)(tile + 1) * low / size) + 3; }

// Gives each buffer its place in the workspace.
struct Layout {
  Plan& plan;
  size_t operator()(const char* name, size_t bytes) {
    const size_t at = plan.total;
    plan.buffers[plan.count++] = {name, at, bytes};
    plan.total += (bytes + 255) / 256 * 256;
    return at;
  }
};

void choose_tiles(const Network& net, int element, const DeviceInfo& device, int n, int h, int w,
                  Plan& plan) {
  const size_t channels = 8 * net.width, k = net.kernel;
  const size_t pixel = (size_t)pixel_stride(channels, element) * element;
  const int map_h = plan.low_h[net.recursive - 1], map_w = plan.low_w[net.recursive - 1];

  auto halo = [](size_t th, size_t tw, size_t border) { return (th + 2 * border) * (tw + 2 * border); };
  auto tile = [&](auto bytes, auto work, int images) {
    return choose(net, device, images, h, w, bytes, work);
  };
  plan.rme = tile([&](size_t th, size_t tw) { return (halo(th, tw, 2) + halo(th, tw, 1) + th * tw) * pixel; },
                  [&](size_t th, size_t tw) { return halo(th, tw, 1); },
                  1);  // whatever the batch: the order in which logits are summed decides their last bits
  plan.ffn = tile([&](size_t th, size_t tw) { return halo(th, tw, 1) * pixel; },
                  [&](size_t th, size_t tw) { return halo(th, tw, 1) + 2 * th * tw; }, n);
  plan.ends = plan.ffn;

  auto scratch = [&](size_t th, size_t tw) {  // what mix.cuh needs before the feed-forward
    const size_t rows = samples(th, map_h, h), columns = samples(tw, map_w, w);
    const size_t bytes = ((rows + 2) * (columns + 2) + rows * columns) * channels * sizeof(float);
    return std::max(halo(th, tw, 1) * pixel, (bytes + 15) / 16 * 16);
  };
  plan.mix_ffn = tile(
      [&](size_t th, size_t tw) {
        const size_t map = (size_t)samples(th, map_h, h) * samples(tw, map_w, w) * net.ranks;
        return scratch(th, tw) + (map + net.ranks + channels + net.experts) * sizeof(float);
      },
      [&](size_t th, size_t tw) { return halo(th, tw, 1) + 2 * th * tw; }, n);
  const Tiling& mix = plan.mix_ffn.at;
  plan.mix_offset = (int)scratch(mix.tile_h, mix.tile_w);
  plan.most_rows = samples(mix.tile_h, map_h, h);
  plan.most_columns = samples(mix.tile_w, map_w, w);

  auto sme_work = [&](size_t th, size_t tw) { return halo(th, tw, k / 2) + 2 * th * tw; };
  plan.sme =
      k != 11 ? Step{} : tile([&](size_t th, size_t tw) { return halo(th, tw, k / 2) * pixel; }, sme_work, n);
  plan.sme_rounds = !plan.sme.shared;
  if (plan.sme_rounds)
    plan.sme = tile(
        [&](size_t th, size_t tw) {
          return halo(th, tw, k / 2) * pixel_stride(8, element) * element + th * tw * pixel;
        },
        sme_work, n);

  plan.blocks = std::min(plan.rme.at.count, kMostBlocks);
}

void lay_out(const Network& net, int element, size_t n, size_t h, size_t w, Plan& plan) {
  Layout place{plan};
  const size_t channels = 8 * net.width, ranks = net.ranks, pixels = n * h * w, last = net.recursive - 1;
  auto floats = [&](const char* name, size_t count) { return place(name, count * sizeof(float)); };
  auto level = [&](size_t i) { return n * plan.low_h[i] * plan.low_w[i]; };
  plan.skip = place("skip", pixels * channels * element);
  plan.stream[0] = place("stream 0", pixels * channels * element);
  if (!net.wide) plan.stream[1] = place("stream 1", pixels * channels * element);
  plan.b = place("b", pixels * ranks * element);
  plan.c = place("c", pixels * ranks * element);
  // Of several levels the last is computed by a narrow network's tiles as they need it.
  const size_t stored = net.wide ? net.recursive : std::max<size_t>(1, last);
  for (size_t i = 0; i < stored; ++i) plan.low[i] = floats("low", level(i) * channels);
  plan.partial = floats("partial", n * plan.blocks * net.experts);
  if (!net.wide) return;
  for (size_t& plane : plan.plane) plane = place("plane", pixels * channels * element);
  plan.mixed = floats("mixed", level(last) * channels);
  plan.map = floats("map", level(last) * ranks);
  plan.weight = floats("weight", n * ranks);
  plan.bias = floats("bias", n * channels);
}

}  // namespace

Plan make_plan(const Network& net, int element, const DeviceInfo& device, int n, int h, int w) {
  Plan plan = {};
  for (int i = 0; i < net.recursive; ++i) {
    plan.low_h[i] = (i ? plan.low_h[i - 1] : h) / 4;
    plan.low_w[i] = (i ? plan.low_w[i - 1] : w) / 4;
  }
  if (net.wide) {
    plan.ends.at = {h, w, net.dim, 0, 0, 0, 0};  // of whose kernels none has tiles
    plan.blocks = (int)std::min<int64_t>(((int64_t)h * w + kLeastPooled - 1) / kLeastPooled, kMostBlocks);
  } else {
    choose_tiles(net, element, device, n, h, w, plan);
  }
  lay_out(net, element, n, h, w, plan);
  return plan;
}

}  // namespace cuda
}  // namespace seemore
