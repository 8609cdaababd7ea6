// Runs the engine through the C API on random weights at awkward sizes, with one to three threads, on every
// instruction set; built with sanitizers and run by tests/house/test_sanitizers.py, also under valgrind by
// hand.
//
// Each buffer is an allocation of its own and exactly as large as the API asks for.  Exits 0 if outputs are
// finite and the same for every number of threads and whatever the workspace held.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "expect.h"
#include "seemore.h"
#include "weights.h"

namespace {

struct Config {
  int scale, in_chans, experts, layers, dim, kernel, recursive, topk;
};

// Random weights of a network, each array its own allocation.
struct Network {
  sm_network net = {};
  std::vector<int> ranks;
  std::vector<sm_group_weights> groups;
  std::deque<std::vector<float>> arrays;
  std::mt19937 generator{7};

  const float* random(size_t count, float scale) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> values(count);
    for (float& value : values) value = normal(generator);
    arrays.push_back(std::move(values));
    return arrays.back().data();
  }

  explicit Network(const Config& config) {
    for (int e = 0; e < config.experts; ++e) ranks.push_back(e + 2);
    net.scale = config.scale;
    net.in_chans = config.in_chans;
    net.num_experts = config.experts;
    net.num_layers = config.layers;
    net.dim = config.dim;
    net.kernel = config.kernel;
    net.recursive = config.recursive;
    net.topk = config.topk;
    net.ranks = ranks.data();
    net.img_range = 1.0f;
    const seemore::WeightSizes sizes(net);
    auto fill = [this](const float*& values, size_t count) { values = random(count, 0.1f); };
    seemore::each(net.ends, sizes, fill);
    groups.resize(config.layers);
    for (sm_group_weights& group : groups) seemore::each(group, sizes, fill);
    net.groups = groups.data();
  }
};

struct Input {
  int64_t n, h, w;
  bool u8;
};

std::vector<char> make_input(const Config& config, const Input& in) {
  const size_t element = in.u8 ? 1 : sizeof(float);
  const size_t pixels = (size_t)in.n * config.in_chans * in.h * in.w;
  std::vector<char> input(pixels * element);
  std::mt19937 generator(3);
  for (size_t i = 0; i < pixels; ++i) {
    const uint32_t value = generator();
    const float real = (value & 0xffff) / 65535.0f;
    if (in.u8)
      input[i] = (char)value;
    else
      memcpy(&input[i * element], &real, element);
  }
  return input;
}

std::vector<char> forward(const sm_engine* engine, const Config& config, const Input& in, int threads,
                          int64_t limit, int memory) {
  const std::vector<char> input = make_input(config, in);
  std::vector<char> output(input.size() * config.scale * config.scale, (char)0xff);
  sm_forward_params params = {};
  params.engine = engine;
  params.input = input.data();
  params.output = output.data();
  params.u8 = in.u8;
  params.n = in.n;
  params.h = in.h;
  params.w = in.w;
  params.threads = threads;
  params.workspace_limit = limit;
  EXPECT(sm_engine_workspace(&params, &params.workspace_bytes) == SM_OK);
  // malloc: memory that valgrind and the address sanitizer know to the byte, and to be uninitialised.
  params.workspace = std::malloc(params.workspace_bytes);
  EXPECT(params.workspace);
  if (memory >= 0) memset(params.workspace, memory, params.workspace_bytes);
  EXPECT(sm_engine_forward(&params) == SM_OK);
  std::free(params.workspace);
  if (!in.u8) {
    for (size_t i = 0; i < output.size(); i += sizeof(float)) {
      float value;
      memcpy(&value, &output[i], sizeof value);
      EXPECT(std::isfinite(value));
    }
  }
  return output;
}

// Memory of its own, not initialised: sanitizers and valgrind know it to the byte.
using Floats = std::unique_ptr<float, decltype(&std::free)>;

Floats floats(int64_t count) { return {static_cast<float*>(std::malloc(count * sizeof(float))), &std::free}; }

int64_t up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// One float32 image in the smallest tiles that there may be, each phase over all of them.
std::vector<char> tiled(const sm_engine* engine, const Network& network, const Config& config,
                        const Input& in, int threads) {
  const int64_t ratio = (int64_t)1 << (2 * config.recursive), halo = up(7 + config.kernel / 2, 4);
  const int64_t step = up(halo, ratio), scale = config.scale, map_h = in.h / ratio, map_w = in.w / ratio;
  const int64_t columns = up(map_w, 16) + 32;
  int ranks = 0;
  for (const int rank : network.ranks) ranks += rank;
  const std::vector<char> input = make_input(config, in);
  std::vector<char> output(input.size() * scale * scale, (char)0xff);
  const size_t aggregated_size = map_h * up(config.dim, 4) * columns;
  Floats aggregated = floats(aggregated_size), map = floats(map_h * up(ranks, 4) * columns);
  std::vector<Floats> streams;
  std::vector<double> sums(config.dim);
  std::vector<int> experts;
  for (int e = 0; e < config.topk; ++e) experts.push_back(e);
  const std::vector<float> weights(config.topk, 0.5f);

  auto each_tile = [&](sm_phase phase, int group) {
    size_t index = 0;
    for (int64_t y = 0; y < in.h; y += step)
      for (int64_t x = 0; x < in.w; x += step, ++index) {
        sm_tile_params params = {};
        params.engine = engine;
        params.phase = phase;
        params.group = group;
        params.full_h = in.h;
        params.full_w = in.w;
        params.top = std::max<int64_t>(y - halo, 0);
        params.left = std::max<int64_t>(x - halo, 0);
        params.h = std::min(y + step + halo, in.h) - params.top;
        params.w = std::min(x + step + halo, in.w) - params.left;
        params.y0 = y - params.top;
        params.x0 = x - params.left;
        params.y1 = std::min(y + step, in.h) - params.top;
        params.x1 = std::min(x + step, in.w) - params.left;
        if (phase == SM_PHASE_HEAD)
          streams.push_back(floats(params.h * up(config.dim, 4) * up(params.w, 16)));
        const int64_t tile_h = (params.y1 - params.y0) * scale, tile_w = (params.x1 - params.x0) * scale;
        Floats crop = floats(config.in_chans * params.h * params.w);
        Floats pixels = floats(config.in_chans * tile_h * tile_w);
        for (int64_t row = 0; row < config.in_chans * params.h; ++row) {
          const int64_t from = (row / params.h * in.h + params.top + row % params.h) * in.w + params.left;
          memcpy(crop.get() + row * params.w, &input[from * sizeof(float)], params.w * sizeof(float));
        }
        params.stream = streams[index].get();
        params.input = crop.get();
        params.output = pixels.get();
        params.sums = sums.data();
        params.aggregated = aggregated.get();
        params.map = map.get();
        params.experts = experts.data();
        params.weights = weights.data();
        params.threads = threads;
        EXPECT(sm_engine_tile_workspace(&params, &params.workspace_bytes) == SM_OK);
        Floats workspace = floats(params.workspace_bytes / sizeof(float));
        params.workspace = workspace.get();
        EXPECT(sm_engine_tile(&params) == SM_OK);
        if (phase == SM_PHASE_CALIBRATE) return;
        if (phase != SM_PHASE_TAIL) continue;
        for (int64_t row = 0; row < config.in_chans * tile_h; ++row) {
          const int64_t to =
              (row / tile_h * in.h * scale + y * scale + row % tile_h) * in.w * scale + x * scale;
          memcpy(&output[to * sizeof(float)], pixels.get() + row * tile_w, tile_w * sizeof(float));
        }
      }
  };
  each_tile(SM_PHASE_HEAD, 0);
  if (config.layers > 0) {
    // Streams of one group only: the next one would need its neighbours' results.
    memset(aggregated.get(), 0, aggregated_size * sizeof(float));
    each_tile(SM_PHASE_POOL, 0);
    each_tile(SM_PHASE_CALIBRATE, 0);
    each_tile(SM_PHASE_GROUP, 0);
    for (const double sum : sums) EXPECT(std::isfinite(sum));
  }
  each_tile(SM_PHASE_TAIL, 0);
  for (size_t i = 0; i < output.size(); i += sizeof(float)) {
    float value;
    memcpy(&value, &output[i], sizeof value);
    EXPECT(std::isfinite(value));
  }
  return output;
}

int64_t least_limit(const sm_engine* engine, const Input& in) {
  sm_forward_params params = {};
  params.engine = engine;
  params.h = in.h;
  params.w = in.w;
  params.threads = 1;
  params.workspace_limit = 1;
  int64_t bytes;
  EXPECT(sm_engine_workspace(&params, &bytes) == SM_ERROR_MEMORY);
  const char* message = sm_last_error();
  return std::atoll(std::strrchr(message, ' ') + 1);
}

int stop_at_once(void* calls) { return ++*static_cast<int*>(calls) > 5; }

void interrupt(const sm_engine* engine, const Config& config) {
  sm_forward_params params = {};
  constexpr int kSide = 64;
  int calls = 0;
  std::vector<float> input(config.in_chans * kSide * kSide),
      output(input.size() * config.scale * config.scale);
  params.engine = engine;
  params.input = input.data();
  params.output = output.data();
  params.n = 1;
  params.h = params.w = kSide;
  params.threads = 3;
  params.poll = stop_at_once;
  params.poll_context = &calls;
  EXPECT(sm_engine_workspace(&params, &params.workspace_bytes) == SM_OK);
  std::vector<char> workspace(params.workspace_bytes);
  params.workspace = workspace.data();
  EXPECT(sm_engine_forward(&params) == SM_ERROR_INTERRUPTED);
}

void exercise(const Config& config, bool bf16, const std::vector<Input>& inputs) {
  Network network(config);
  sm_engine* engine = nullptr;
  EXPECT(sm_engine_create(&network.net, bf16, &engine) == SM_OK);
  for (const Input& in : inputs) {
    const std::vector<char> want = forward(engine, config, in, 1, 0, -1);
    EXPECT(forward(engine, config, in, 2, 0, 0xff) == want);  // NaN
    EXPECT(forward(engine, config, in, 3, 0, -1) == want);
    forward(engine, config, in, 2, least_limit(engine, in), -1);
    if (in.u8 || in.n > 1) continue;
    EXPECT(tiled(engine, network, config, in, 3) == tiled(engine, network, config, in, 1));
  }
  interrupt(engine, config);
  sm_engine_destroy(engine);
}

}  // namespace

// Arguments: instruction sets to run; none: all that work here.
int main(int argc, char** argv) {
  std::vector<const char*> isas(argv + 1, argv + argc);
  for (int i = 0; argc == 1 && sm_usable_isa(i); ++i) isas.push_back(sm_usable_isa(i));
  for (const char* isa : isas) {
    EXPECT(sm_set_isa(isa) == SM_OK);
    for (int bf16 = 0; bf16 <= (std::strstr(isa, "bf16") != nullptr); ++bf16) {
      exercise({2, 3, 3, 2, 12, 11, 2, 1}, bf16,
               {{1, 16, 16, false}, {2, 19, 37, true}, {1, 16, 353, false}});
      exercise({1, 1, 1, 1, 96, 3, 1, 1}, bf16, {{1, 4, 4, false}, {1, 16, 17, false}});
      exercise({3, 4, 2, 1, 7, 41, 2, 2}, bf16, {{1, 17, 16, false}, {1, 33, 49, true}});
      exercise({2, 3, 2, 1, 50, 1, 3, 1}, bf16, {{1, 65, 67, false}});
      exercise({4, 3, 1, 0, 5, 11, 1, 1}, bf16, {{1, 5, 33, false}});
    }
  }
  return 0;
}
