// Runs cases that Python wrote (tests/support/cases.py) through the C API: networks, also as they are
// trained, and operators with their gradients, held to results in float64.  For platforms whose Python is not
// at hand: under QEMU, under Wine.
//
// Arguments: files.  Each is a sequence of named arrays: uint32 length of the name, name, uint32 count, that
// many floats.  Every one runs on every instruction set that works here, in poisoned memory, with one to five
// threads that must agree to the bit.  Exits 0 if all is right; prints the errors found, relative L2.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "expect.h"
#include "seemore.h"
#include "weights.h"

namespace {

using Floats = std::vector<float>;

constexpr int kThreads[] = {2, 5};  // held to what one gives

struct Case {
  std::map<std::string, Floats> arrays;

  explicit Case(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    EXPECT(file);
    uint32_t length, count;
    while (std::fread(&length, sizeof length, 1, file) == 1) {
      std::string name(length, ' ');
      EXPECT(std::fread(name.data(), 1, length, file) == length);
      EXPECT(std::fread(&count, sizeof count, 1, file) == 1);
      Floats& values = arrays[name];
      values.resize(count);
      EXPECT(std::fread(values.data(), sizeof(float), count, file) == count);
    }
    std::fclose(file);
  }

  bool has(const std::string& name) const { return arrays.count(name) > 0; }
  const Floats& operator[](const std::string& name) const {
    const auto found = arrays.find(name);
    if (found == arrays.end()) std::fprintf(stderr, "no array %s\n", name.c_str());
    EXPECT(found != arrays.end());
    return found->second;
  }
  const float* at(const std::string& name) const { return (*this)[name].data(); }
};

double error_of(const Floats& got, const Floats& want) {
  EXPECT(got.size() == want.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = (double)got[i] - want[i];
    difference += d * d;
    norm += (double)want[i] * want[i];
  }
  return std::sqrt(difference / (norm > 0 ? norm : 1));
}

void hold(const char* what, const Floats& got, const Floats& want, double limit) {
  const double error = error_of(got, want);
  std::printf("  %s %s: %.3g (at most %.3g)\n", sm_isa(), what, error, limit);
  EXPECT(error <= limit);  // false for NaN
}

Floats poisoned(size_t count) { return Floats(count, std::numeric_limits<float>::quiet_NaN()); }

bool same(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A part's weights from an array that has them one after the other.
template <class Part>
void read(Part& part, const seemore::WeightSizes& sizes, const Floats& from) {
  size_t used = 0;
  auto take = [&](const float*& values, size_t floats) {
    values = from.data() + used;
    used += floats;
  };
  seemore::each(part, sizes, take);
  EXPECT(used == from.size());
}

Floats forward(const sm_engine* engine, const Case& c, int threads) {
  const float* shape = c.at("shape");
  sm_forward_params p = {};
  Floats output = poisoned(c["want"].size());
  p.engine = engine;
  p.input = c.at("input");
  p.output = output.data();
  p.n = (int64_t)shape[0];
  p.h = (int64_t)shape[1];
  p.w = (int64_t)shape[2];
  p.threads = threads;
  EXPECT(sm_engine_workspace(&p, &p.workspace_bytes) == SM_OK);
  Floats workspace = poisoned(p.workspace_bytes / sizeof(float));
  p.workspace = workspace.data();
  EXPECT(sm_engine_forward(&p) == SM_OK);
  return output;
}

void run_network(const Case& c) {
  const Floats &numbers = c["network"], &ranks_given = c["ranks"];
  const std::vector<int> ranks(ranks_given.begin(), ranks_given.end());
  sm_network net = {};
  net.scale = (int)numbers[0];
  net.in_chans = (int)numbers[1];
  net.num_experts = (int)numbers[2];
  net.num_layers = (int)numbers[3];
  net.dim = (int)numbers[4];
  net.kernel = (int)numbers[5];
  net.recursive = (int)numbers[6];
  net.topk = (int)numbers[7];
  net.img_range = numbers[8];
  net.ranks = ranks.data();
  const seemore::WeightSizes sizes(net);
  read(net.ends, sizes, c["ends"]);
  std::vector<sm_group_weights> groups(net.num_layers);
  for (int i = 0; i < net.num_layers; ++i) read(groups[i], sizes, c["groups[" + std::to_string(i) + "]"]);
  net.groups = groups.data();
  for (const bool bf16 : {false, true}) {
    if (bf16 && !c.has("bf16_limit")) continue;
    sm_engine* engine = nullptr;
    const sm_status status = sm_engine_create(&net, bf16, &engine);
    if (bf16 && status == SM_ERROR_UNSUPPORTED) continue;
    EXPECT(status == SM_OK);
    const Floats once = forward(engine, c, 1);
    hold(bf16 ? "bf16 network" : "network", once, c["want"], c[bf16 ? "bf16_limit" : "limit"][0]);
    for (const int threads : kThreads) EXPECT(same(forward(engine, c, threads), once));
    sm_engine_destroy(engine);
  }
}

// Result and gradients of an operator that run(p, inputs) runs with these parameters, forward or backward;
// p.op, p.threads and what only the operator has are its own.
template <class Run>
std::vector<Floats> run_once(const Case& c, const Run& run) {
  const float* shape = c.at("shape");
  const Floats &ranks_given = c["ranks"], &saved_sizes = c["saved"];
  const std::vector<int64_t> ranks(ranks_given.begin(), ranks_given.end());
  std::vector<const float*> inputs;
  std::vector<Floats> results = {poisoned(c["want"].size())}, kept, gradients;
  for (int i = 0; c.has("input[" + std::to_string(i) + "]"); ++i) {
    const Floats& input = c["input[" + std::to_string(i) + "]"];
    inputs.push_back(input.data());
    gradients.push_back(poisoned(input.size()));
  }
  for (const float size : saved_sizes) kept.push_back(poisoned((size_t)size));
  std::vector<float*> outputs = {results[0].data()}, gradient_outputs;
  std::vector<const float*> saved;
  for (Floats& values : kept) outputs.push_back(values.data()), saved.push_back(values.data());
  for (Floats& values : gradients) gradient_outputs.push_back(values.data());
  sm_op_params p = {};
  p.inputs = inputs.data();
  p.outputs = outputs.data();
  p.n = (int64_t)shape[0];
  p.c = (int64_t)shape[1];
  p.h = (int64_t)shape[2];
  p.w = (int64_t)shape[3];
  p.experts = (int64_t)ranks.size();
  p.ranks = ranks.data();
  run(p, (int64_t)inputs.size());
  p.grad = c.at("grad");
  p.saved = saved.data();
  p.outputs = gradient_outputs.data();
  run(p, (int64_t)inputs.size());
  for (Floats& values : gradients) results.push_back(std::move(values));
  return results;
}

std::vector<Floats> run_op_once(const Case& c, const std::string& op, int threads) {
  const float* options = c.at("options");
  return run_once(c, [&](sm_op_params& p, int64_t) {
    p.op = op.c_str();
    p.kernel = (int64_t)options[0];
    p.rank = (int64_t)options[1];
    p.topk = (int64_t)options[2];
    p.recursive = (int64_t)options[3];
    p.gelu = (int)options[4];
    p.shuffle = (int)options[5];
    p.eps = options[6];
    p.threads = threads;
    EXPECT(sm_op(&p) == SM_OK);
  });
}

std::vector<Floats> train_once(const Case& c, bool bf16, int threads) {
  const float* options = c.at("train");
  return run_once(c, [&](sm_op_params& p, int64_t inputs) {
    p.op = "network";
    p.kernel = (int64_t)options[0];
    p.rank = 1;
    p.topk = (int64_t)options[1];
    p.recursive = (int64_t)options[2];
    p.shuffle = (int)options[3];
    p.eps = options[4];
    p.threads = threads;
    sm_network_op_params network = {};
    network.op = p;
    network.inputs = inputs;
    network.layers = (int64_t)options[5];
    network.in_chans = (int64_t)options[6];
    network.scale = (int64_t)options[7];
    network.img_range = options[8];
    network.mean = c.at("mean");
    network.bf16 = bf16;
    EXPECT(sm_network_op(&network) == SM_OK);
  });
}

// Holds what once(threads) gives, limits by their names; one for all gradients, or each its own.
template <class Once>
std::vector<Floats> hold_all(const Case& c, const std::string& what, const char* limit,
                             const char* grad_limit, const Once& once) {
  const std::vector<Floats> results = once(1);
  const Floats& limits = c[grad_limit];
  hold(what.c_str(), results[0], c["want"], c[limit][0]);
  for (size_t i = 0; i + 1 < results.size(); ++i) {
    const std::string name = "want_grad[" + std::to_string(i) + "]";
    hold((what + " " + name).c_str(), results[i + 1], c[name], limits[limits.size() > 1 ? i : 0]);
  }
  for (const int threads : kThreads) {
    const std::vector<Floats> again = once(threads);
    for (size_t i = 0; i < results.size(); ++i) EXPECT(same(again[i], results[i]));
  }
  return results;
}

void run_op(const Case& c, const std::string& op) {
  hold_all(c, op, "limit", "grad_limit", [&](int threads) { return run_op_once(c, op, threads); });
}

// bf16 on an instruction set without is fp32.
void run_training(const Case& c) {
  const std::string isa = sm_isa();
  const std::vector<Floats> exact =
      hold_all(c, "train", "limit", "grad_limit", [&](int threads) { return train_once(c, false, threads); });
  if (isa.find("bf16") == std::string::npos) {
    const std::vector<Floats> low = train_once(c, true, 1);
    for (size_t i = 0; i < exact.size(); ++i) EXPECT(same(low[i], exact[i]));
    return;
  }
  const std::vector<Floats> low = hold_all(c, "bf16 train", "bf16_limit", "bf16_grad_limit",
                                           [&](int threads) { return train_once(c, true, threads); });
  EXPECT(error_of(low[0], c["want"]) > c["bf16_limit"][0] / 3);
}

}  // namespace

int main(int argc, char** argv) {
  EXPECT(argc > 1);
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // who ends it sees how far it came
  for (int i = 1; i < argc; ++i) {
    const Case c(argv[i]);
    std::printf("%s\n", argv[i]);
    for (int isa = 0; sm_usable_isa(isa); ++isa) {
      EXPECT(sm_set_isa(sm_usable_isa(isa)) == SM_OK);
      if (c.has("network")) {
        run_network(c);
        continue;
      }
      if (c.has("train")) {
        run_training(c);
        continue;
      }
      for (const auto& [name, values] : c.arrays)
        if (name.compare(0, 3, "op:") == 0) run_op(c, name.substr(3));
    }
  }
  return 0;
}
