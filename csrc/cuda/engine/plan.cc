// Chooses tiles by a model of instructions: what a block's warps issue, how evenly they share it, and how
// many blocks run at a time.
#include "cuda/engine/plan.h"

#include <algorithm>
#include <vector>

namespace seemore {
namespace cuda {
namespace {

constexpr int kSides[][2] = {{32, 32}, {32, 16}, {16, 32}, {16, 16}, {8, 32},  {8, 16},
                             {30, 16}, {20, 32}, {20, 16}, {18, 32}, {18, 16}, {15, 32},
                             {15, 16}, {12, 32}, {12, 16}, {6, 16},  {4, 16}};
constexpr size_t kCrops = 32;  // crops begin at multiples (phases.cc), and tiles whose sums depend on theirs
constexpr int kPooledSide = 32;             // of a tile of a wide network whose logits are summed at once
constexpr size_t kNever = (size_t)1 << 40;  // bytes of a tile that a kernel does not have
constexpr size_t kReserved = 1024;          // bytes of shared memory that the system takes per block
constexpr double kAlone = 1.04;  // what a block's warps take longer that have a multiprocessor to themselves

int ceil_divide(int a, int b) { return (a + b - 1) / b; }
size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

// Part of a kernel between two barriers: tasks that go to a warp each, the instructions of one, and those of
// them that are products (m16n8k16) with sums of float32, or with sums that fp16 has as float16.
struct Phase {
  size_t tasks;
  double each, products = 0, half_sums = 0;
};

using Phases = std::vector<Phase>;

struct Work {           // warp instructions of a block
  double all, longest;  // of all warps; of those that have most to do
  double products = 0;  // of all warps, in the time of those with sums of float32

  // once: what each warp begins with.
  Work(const Phases& phases, int warps, double once, double half_sum) : all(warps * once), longest(once) {
    for (const Phase& phase : phases) {
      all += phase.tasks * phase.each;
      products += phase.tasks * (phase.products + phase.half_sums * half_sum);
      longest += ceil_divide((int)phase.tasks, warps) * phase.each;
    }
  }
};

// Cycles of a product with sums of float32 on a multiprocessor's tensor cores: 8 on GeForce cards, where a
// block may ask for no more than 99 KB. Elsewhere they are fast enough.
double cycles_of_product(const DeviceInfo& device) { return device.shared_limit < 128 << 10 ? 8 : 0; }

// Cycles until `together` blocks, of as many as a multiprocessor has room for, have ended: four schedulers,
// and tensor cores, reach 65 % of their rate at best and hide three quarters of what takes less time; a warp
// alone issues some four cycles apart.
double cycles(const DeviceInfo& device, const Work& work, int together, int room) {
  const double issue = work.all / 4, tensor = work.products * cycles_of_product(device);
  const double shared = std::max(issue, tensor) + std::min(issue, tensor) / 4;
  return std::max((room == 1 ? kAlone : together) * shared / 0.65, 4 * work.longest);
}

// Blocks of a kernel that share a multiprocessor. More than `most` the registers do not allow.
int together(const DeviceInfo& device, size_t shared, int most) {
  return std::clamp<int>((int)(device.shared_per_processor / (shared + kReserved)), 1, most);
}

// The cheapest tile for n images; bytes(th, tw, threads) of shared memory, work(th, tw) of a block, and once
// of each warp. slim: a multiprocessor's registers hold two blocks, or one of twice the threads.
template <class Bytes, class Instructions>
Step choose(const Network& net, sm_cuda_precision precision, const DeviceInfo& device, bool slim, int n,
            int h, int w, Bytes bytes, Instructions work, double once) {
  const double half_sum = precision == SM_CUDA_FP16 ? 0.5 : 1;  // of the time of a sum of float32
  Step best = {};
  double least = 0;
  for (const auto& [th, tw] : kSides)
    for (int threads = kThreads; threads <= (slim ? 2 : 1) * kThreads; threads *= 2) {
      const size_t shared = bytes(th, tw, threads);
      if (shared > device.shared_limit) continue;
      const Tiling at = {h, w, net.dim, th, tw, ceil_divide(w, tw), ceil_divide(w, tw) * ceil_divide(h, th)};
      const int share = together(device, shared, slim ? 2 * kThreads / threads : 1), all = at.count * n;
      const int wave = device.multiprocessors * share, rest = all % wave;
      const Work block(work(th, tw), threads / 32, once, half_sum);
      double cost = all / wave * cycles(device, block, share, share);
      if (rest) cost += cycles(device, block, ceil_divide(rest, device.multiprocessors), share);
      if (!best.shared || cost < least) {
        best = {at, shared, (unsigned)threads};
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

// Instructions are counted on the machine code for float16 and 40 channels; other formats and widths move all
// of them alike.
void choose_tiles(const Network& net, sm_cuda_precision precision, const DeviceInfo& device, int n, int h,
                  int w, Plan& plan) {
  const int element = element_bytes(precision);
  const size_t channels = 8 * net.width, units = channels * element / 16, k = net.kernel;
  const size_t pixel = (size_t)pixel_stride(channels, element) * element;
  plan.pixel_bytes = (int)pixel;
  const int map_w = plan.low_w[net.recursive - 1];
  const bool slim = element == 2 && net.width <= 6;  // see __launch_bounds__

  auto halo = [](size_t th, size_t tw, size_t border) { return (th + 2 * border) * (tw + 2 * border); };
  auto fragments = [](size_t pixels) { return (pixels + 15) / 16; };
  auto tile = [&](auto bytes, auto work, double once, int images) {
    return choose(net, precision, device, slim, images, h, w, bytes, work, once);
  };
  // Rows on their way in, with a border, and out.
  auto in = [&](size_t th, size_t tw, size_t border) {
    return Phase{th + 2 * border, 15 + 0.15 * (double)((tw + 2 * border) * units)};
  };
  auto out = [&](size_t th, size_t tw) { return Phase{th, 15 + 0.7 * (double)(tw * units)}; };

  // Filters of `bands` times some rows, by two columns of a pair of units, and by one of an odd unit
  // (share_columns() in region.cuh): what a warp executes for either.
  auto filtered = [&](size_t bands, size_t tw, double two, double one) {
    const size_t pairs = units / 2, odd = units % 2;
    return Phase{((pairs + odd) * bands * tw + 31) / 32,
                 ((double)pairs * two + (double)odd * one) / (double)(pairs + odd)};
  };
  auto gated_rows = [&](size_t th) {
    return th % 8 == 0 ? (size_t)8 : net.width <= 5 ? kGatedRows<5> : kGatedRows<6>;
  };
  auto gate = [&](size_t th, size_t tw) {
    const size_t rows = gated_rows(th);
    return filtered(th / rows, tw, 97.0 * (double)rows, 52.0 * (double)rows);
  };

  const bool half_sums = precision == SM_CUDA_FP16;
  const int rme_shares = rme_together(net.width, element, half_sums),
            conv_shares = conv_together(net.width, element, half_sums);
  const size_t striped = element == 2 ? kStripedRows<2> : kStripedRows<4>;
  auto rme_bytes = [&](size_t th, size_t tw, int threads) {
    if (th % striped || kCrops % th) return kNever;
    const size_t pitch = tw + 4, rows = th + 2, bands = round_up(rows, rme_shares) * pitch + 16;
    // In rme.cuh, whose rows are not rounded up: its last band reads rows of the one before, over which x
    // would have come in a second round.
    const bool uneven = rme_shares == 4;
    if (uneven && fragments((rows + 3) / 4 * (tw + 2)) > (size_t)threads / 32) return kNever;
    return (uneven ? (2 * rows + 2) * pitch + 32 : 2 * bands + 2 * pitch + 2) * pixel + kKeptByRme;
  };
  // One image, whatever the batch: the order in which logits are summed decides their last bits.
  plan.rme = tile(
      rme_bytes,
      [&](size_t th, size_t tw) {
        const size_t groups = fragments(round_up(th + 2, rme_shares) / rme_shares * (tw + 4));
        return Phases({in(th, tw, 2),
                       {fragments(halo(th, tw, 2)), 105, 8},
                       {groups, 400.0 * rme_shares, 0, 130.0 * rme_shares},
                       filtered(th / striped, tw, 145.0 * striped, 76.0 * striped),
                       {th * tw / 16, 170, 3, 23},
                       out(th, tw)});
      },
      400, 1);
  plan.blocks = plan.rme.at.count;

  auto ffn_bytes = [&](size_t th, size_t tw, int) {
    return th % gated_rows(th) ? kNever : 2 * round_up(halo(th, tw, 1), 16) * pixel;
  };
  plan.ffn = tile(
      ffn_bytes,
      [&](size_t th, size_t tw) {
        return Phases({in(th, tw, 1),
                       {fragments(halo(th, tw, 1)), 310, 8, 25},
                       gate(th, tw),
                       {th * tw / 16, 155, 0, 13},
                       out(th, tw)});
      },
      300, n);
  plan.mix_ffn = tile(
      [&](size_t th, size_t tw, int threads) {
        const size_t lines = (th + 2) * samples(tw, map_w, w) * 2 * 16 * element;
        return ffn_bytes(th, tw, threads) + lines + (tw + 2) * 2 * sizeof(int);
      },
      [&](size_t th, size_t tw) {
        return Phases({in(th, tw, 1),
                       {(th + 2) * samples(tw, map_w, w) / 4, 110},
                       {th + 2, 60 + 3.2 * (double)tw},
                       {fragments(halo(th, tw, 1)), 60, 0, 5},
                       out(th, tw),
                       {fragments(halo(th, tw, 1)), 310, 8, 25},
                       gate(th, tw),
                       {th * tw / 16, 155, 0, 13},
                       out(th, tw)});
      },
      540, n);
  plan.most_columns = samples(plan.mix_ffn.at.tile_w, map_w, w);

  auto sme_work = [&](size_t th, size_t tw) {
    const size_t border = k / 2, all = halo(th, tw, border);
    const double rounds = (double)((channels + 15) / 16), along = (double)((th + 2 * border) * tw);
    return Phases({in(th, tw, border),
                   {fragments(all), 65 + rounds * 65, 8, rounds * 5},
                   {channels, 0.225 * along, 0, 0.03 * along},
                   {th * tw / 16, rounds * 135, 0, rounds * 10},
                   out(th, tw)});
  };
  const bool bands = has_bands((int)k, element);
  auto with_planes = [&](size_t th, size_t tw, int planes) {
    return bands_bytes((int)th, planes, element) + round_up(halo(th, tw, k / 2), 16) * pixel;
  };
  auto sme_bytes = [&](size_t th, size_t tw, int threads) {
    if (th % 8 || kCrops % th || (bands && (tw != 16 || (th > kBandRows) != (threads > kThreads))))
      return kNever;
    if (!bands) return halo(th, tw, k / 2) * pixel;
    const size_t most = with_planes(th, tw, planes_at_once(net.width));
    return th > kBandRows && most <= device.shared_limit ? most : with_planes(th, tw, 16);
  };
  // Bands that begin in another row add up in another order: one image, as above.
  plan.sme = k == 11 ? tile(sme_bytes, sme_work, 400, bands ? 1 : n) : Step{};
  plan.sme_rounds = !plan.sme.shared;
  plan.sme_broad = plan.sme.threads > kThreads &&
                   plan.sme.shared == with_planes(2 * kBandRows, 16, planes_at_once(net.width));
  if (plan.sme_rounds)
    plan.sme = tile(
        [&](size_t th, size_t tw, int threads) {
          if (threads > kThreads) return kNever;
          return halo(th, tw, k / 2) * pixel_stride(8, element) * element + th * tw * pixel;
        },
        sme_work, 400, n);

  // Two kernels, each with a 3x3 convolution of one tile; the result of the first.
  const int upsample = upsample_together(net.width, upsample_pass(net.scale, net.in_chans), element);
  plan.ends = tile(
      [&](size_t th, size_t tw, int) {
        if (th * tw > 512) return kNever;
        return std::max(tail_pixels((int)th, (int)tw, conv_shares) + th * tw,
                        (size_t)tail_pixels((int)th, (int)tw, upsample)) *
               pixel;
      },
      [&](size_t th, size_t tw) {
        return Phases(
            {in(th, tw, 1),
             {fragments(halo(th, tw, 1)), 105, 8},
             {round_up(th, conv_shares) / conv_shares * tw / 16, 200.0 * conv_shares, 0, 105.0 * conv_shares},
             out(th, tw),
             in(th, tw, 1),
             {round_up(th, upsample) / upsample * tw / 16, 240.0 * upsample, 115.0 * upsample}});
      },
      200, n);
}

void lay_out(const Network& net, int element, size_t n, size_t h, size_t w, Plan& plan) {
  Layout place{plan};
  const size_t channels = 8 * net.width, ranks = net.ranks, pixels = n * h * w, last = net.recursive - 1;
  auto floats = [&](const char* name, size_t count) { return place(name, count * sizeof(float)); };
  auto level = [&](size_t i) { return n * plan.low_h[i] * plan.low_w[i]; };
  plan.skip = place("skip", pixels * channels * element);
  plan.stream[0] = place("stream 0", pixels * channels * element);
  plan.stream[1] = net.wide ? plan.stream[0] : place("stream 1", pixels * channels * element);
  plan.b = place("b", pixels * ranks * element);
  plan.c = place("c", pixels * ranks * element);
  // Of several levels the last is computed by a narrow network's tiles as they need it.
  const size_t stored = net.wide ? net.recursive : std::max<size_t>(1, last);
  for (size_t i = 0; i < stored; ++i) plan.low[i] = floats("low", level(i) * channels);
  plan.partial = floats("partial", n * plan.blocks * net.experts);
  plan.map = floats("map", level(last) * ranks);
  plan.weight = floats("weight", n * ranks);
  plan.bias = floats("bias", n * channels);
  if (!net.wide) return;
  for (size_t& plane : plan.plane) plane = place("plane", pixels * channels * element);
  plan.mixed = floats("mixed", level(last) * channels);
}

}  // namespace

Plan make_plan(const Network& net, sm_cuda_precision precision, const DeviceInfo& device, int n, int h,
               int w) {
  Plan plan = {};
  for (int i = 0; i < net.recursive; ++i) {
    plan.low_h[i] = (i ? plan.low_h[i - 1] : h) / 4;
    plan.low_w[i] = (i ? plan.low_w[i - 1] : w) / 4;
  }
  if (net.wide) {  // of whose kernels only the one that sums logits has tiles
    const int across = (w + kPooledSide - 1) / kPooledSide, down = (h + kPooledSide - 1) / kPooledSide;
    for (Step* step : {&plan.rme, &plan.mix_ffn, &plan.ffn, &plan.sme, &plan.ends})
      step->at = {h, w, net.dim, kPooledSide, kPooledSide, across, across * down};
    plan.blocks = plan.rme.at.count;
  } else {
    choose_tiles(net, precision, device, n, h, w, plan);
  }
  lay_out(net, element_bytes(precision), n, h, w, plan);
  return plan;
}

}  // namespace cuda
}  // namespace seemore
