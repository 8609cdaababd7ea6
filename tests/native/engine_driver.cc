// Runs the engine through the C API on random weights at awkward sizes, with one to three threads, on every
// instruction set; built with sanitizers and run by tests/test_sanitizers.py, also under valgrind by hand.
//
// Each buffer is an allocation of its own and exactly as large as the API asks for.  Exits 0 if outputs are
// finite and the same for every number of threads and whatever the workspace held.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <vector>

#include "seemore.h"

namespace {

#define EXPECT(condition)                                                                \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, sm_last_error()); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (0)

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

  void layer(const float*& weight, const float*& bias, int rows, int columns) {
    weight = random((size_t)rows * columns, 1.0f / std::sqrt((float)columns));
    bias = random(rows, 0.05f);
  }

  void ffn(sm_ffn_weights& f, int c) {
    layer(f.a, f.a_bias, c, c);
    layer(f.g, f.g_bias, c, c);
    layer(f.gate, f.gate_bias, c, 9);
    layer(f.out, f.out_bias, c, c);
  }

  explicit Network(const Config& config) {
    const int c = config.dim, k = config.kernel;
    int r = 0;
    for (int e = 0; e < config.experts; ++e) ranks.push_back(e + 2), r += e + 2;
    for (int i = 0; i < config.layers; ++i) {
      sm_group_weights g = {};
      layer(g.norm, g.norm_bias, c, 1);
      layer(g.conv, g.conv_bias, c, 9 * c);
      layer(g.to_x, g.to_x_bias, c, c);
      layer(g.to_k, g.to_k_bias, c, c);
      layer(g.stripe_h, g.stripe_h_bias, c, 3);
      layer(g.stripe_v, g.stripe_v_bias, c, 3);
      layer(g.proj, g.proj_bias, c, c);
      layer(g.expert_b, g.expert_b_bias, r, c);
      layer(g.expert_c, g.expert_c_bias, r, c);
      g.expert_out = random((size_t)c * r, 0.1f);
      g.expert_out_bias = random((size_t)config.experts * c, 0.1f);
      layer(g.aggregate, g.aggregate_bias, c, 16);
      layer(g.low_conv, g.low_conv_bias, c, 9);
      layer(g.low_proj, g.low_proj_bias, r, c);
      g.router = random((size_t)config.experts * c, 1.0f);
      ffn(g.rme_ffn, c);
      layer(g.to_q, g.to_q_bias, c, c);
      layer(g.to_v, g.to_v_bias, c, c);
      layer(g.sme_h, g.sme_h_bias, c, k);
      layer(g.sme_v, g.sme_v_bias, c, k);
      layer(g.sme_proj, g.sme_proj_bias, c, c);
      ffn(g.sme_ffn, c);
      groups.push_back(g);
    }
    net.scale = config.scale;
    net.in_chans = config.in_chans;
    net.num_experts = config.experts;
    net.num_layers = config.layers;
    net.dim = c;
    net.kernel = k;
    net.recursive = config.recursive;
    net.topk = config.topk;
    net.ranks = ranks.data();
    net.img_range = 1.0f;
    net.mean = random(config.in_chans, 0.3f);
    layer(net.head, net.head_bias, c, 9 * config.in_chans);
    net.groups = groups.data();
    layer(net.norm, net.norm_bias, c, 1);
    layer(net.conv_2, net.conv_2_bias, c, 9 * c);
    layer(net.upsampler, net.upsampler_bias, config.in_chans * config.scale * config.scale, 9 * c);
  }
};

struct Input {
  int64_t n, h, w;
  bool u8;
};

std::vector<char> forward(const sm_engine* engine, const Config& config, const Input& in, int threads,
                          int64_t limit, int memory) {
  const size_t element = in.u8 ? 1 : sizeof(float);
  const size_t pixels = (size_t)in.n * config.in_chans * in.h * in.w;
  std::vector<char> input(pixels * element), output(input.size() * config.scale * config.scale, (char)0xff);
  std::mt19937 generator(3);
  for (size_t i = 0; i < pixels; ++i) {
    const uint32_t value = generator();
    const float real = (value & 0xffff) / 65535.0f;
    if (in.u8)
      input[i] = (char)value;
    else
      memcpy(&input[i * element], &real, element);
  }
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
    for (int bf16 = 0; bf16 <= (strcmp(isa, "v4bf16") == 0); ++bf16) {
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
