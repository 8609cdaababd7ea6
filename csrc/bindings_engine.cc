// Binds the whole-network section of seemore.h: class Engine.
#include <pybind11/numpy.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings.h"

namespace py = pybind11;

namespace seemore {
namespace {

using Array = py::array_t<float, py::array::c_style>;

// Reads a group's folded weights from a dict of float32 arrays, checking every shape.
class Fields {
 public:
  Fields(const py::dict& values, std::string path, std::vector<Array>& alive)
      : values_(values), path_(std::move(path)), alive_(alive) {}

  const float* operator()(const char* name, std::vector<py::ssize_t> shape) {
    if (!values_.contains(name)) throw py::value_error(path_ + name + " is missing from the folded weights");
    Array array = Array::ensure(values_[name]);
    if (!array) throw py::value_error(path_ + name + " must be a float32 array");
    bool same = array.ndim() == (py::ssize_t)shape.size();
    for (size_t i = 0; same && i < shape.size(); ++i) same = array.shape(i) == shape[i];
    if (!same) throw py::value_error(path_ + name + " has the wrong shape");
    alive_.push_back(array);
    return array.data();
  }

 private:
  const py::dict& values_;
  std::string path_;
  std::vector<Array>& alive_;
};

sm_ffn_weights ffn_weights(const py::dict& values, const std::string& path, int c,
                           std::vector<Array>& alive) {
  Fields get(values, path, alive);
  return {get("a", {c, c}),       get("a_bias", {c}),    get("g", {c, c}),   get("g_bias", {c}),
          get("gate", {c, 3, 3}), get("gate_bias", {c}), get("out", {c, c}), get("out_bias", {c})};
}

sm_group_weights group_weights(const py::dict& values, const std::string& path, const sm_network& net,
                               int ranks, std::vector<Array>& alive) {
  Fields get(values, path, alive);
  const int c = net.dim, r = ranks, e = net.num_experts, k = net.kernel;
  sm_group_weights g = {};
  g.norm = get("norm", {c});
  g.norm_bias = get("norm_bias", {c});
  g.conv = get("conv", {c, c, 3, 3});
  g.conv_bias = get("conv_bias", {c});
  g.to_x = get("to_x", {c, c});
  g.to_x_bias = get("to_x_bias", {c});
  g.to_k = get("to_k", {c, c});
  g.to_k_bias = get("to_k_bias", {c});
  g.stripe_h = get("stripe_h", {c, 3});
  g.stripe_h_bias = get("stripe_h_bias", {c});
  g.stripe_v = get("stripe_v", {c, 3});
  g.stripe_v_bias = get("stripe_v_bias", {c});
  g.proj = get("proj", {c, c});
  g.proj_bias = get("proj_bias", {c});
  g.expert_b = get("expert_b", {r, c});
  g.expert_b_bias = get("expert_b_bias", {r});
  g.expert_c = get("expert_c", {r, c});
  g.expert_c_bias = get("expert_c_bias", {r});
  g.expert_out = get("expert_out", {c, r});
  g.expert_out_bias = get("expert_out_bias", {e, c});
  g.aggregate = get("aggregate", {c, 4, 4});
  g.aggregate_bias = get("aggregate_bias", {c});
  g.low_conv = get("low_conv", {c, 3, 3});
  g.low_conv_bias = get("low_conv_bias", {c});
  g.low_proj = get("low_proj", {r, c});
  g.low_proj_bias = get("low_proj_bias", {r});
  g.router = get("router", {e, c});
  g.rme_ffn = ffn_weights(values["rme_ffn"], path + "rme_ffn.", c, alive);
  g.to_q = get("to_q", {c, c});
  g.to_q_bias = get("to_q_bias", {c});
  g.to_v = get("to_v", {c, c});
  g.to_v_bias = get("to_v_bias", {c});
  g.sme_h = get("sme_h", {c, k});
  g.sme_h_bias = get("sme_h_bias", {c});
  g.sme_v = get("sme_v", {c, k});
  g.sme_v_bias = get("sme_v_bias", {c});
  g.sme_proj = get("sme_proj", {c, c});
  g.sme_proj_bias = get("sme_proj_bias", {c});
  g.sme_ffn = ffn_weights(values["sme_ffn"], path + "sme_ffn.", c, alive);
  return g;
}

struct Destroy {
  void operator()(sm_engine* engine) const { sm_engine_destroy(engine); }
};

// Asks Python for a pending Ctrl-C, at most every 20 ms: the check needs the GIL.
struct SignalPoll {
  std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();

  static int poll(void* context) {
    auto& self = *static_cast<SignalPoll*>(context);
    const auto now = std::chrono::steady_clock::now();
    if (now - self.last < std::chrono::milliseconds(20)) return 0;
    self.last = now;
    py::gil_scoped_acquire gil;
    return PyErr_CheckSignals();
  }
};

// full_h, full_w, top, left, h, w, y0, y1, x0, x1 of sm_tile_params.
using Area = std::array<int64_t, 10>;

class Engine {
 public:
  Engine(const py::dict& network, bool bf16) {
    std::vector<Array> alive;
    auto number = [&](const char* name) { return network[name].cast<int>(); };
    const auto ranks = network["ranks"].cast<std::vector<int>>();
    sm_network net = {};
    net.scale = number("scale");
    net.in_chans = number("in_chans");
    net.num_experts = number("num_experts");
    net.num_layers = number("num_layers");
    net.dim = number("dim");
    net.kernel = number("kernel");
    net.recursive = number("recursive");
    net.topk = number("topk");
    net.img_range = network["img_range"].cast<float>();
    if ((int)ranks.size() != net.num_experts) throw py::value_error("ranks must have num_experts entries");
    net.ranks = ranks.data();
    int rank_sum = 0;
    for (const int rank : ranks) rank_sum += rank;

    Fields get(network, "", alive);
    const int c = net.dim, out = net.in_chans * net.scale * net.scale;
    net.mean = get("mean", {net.in_chans});
    net.head = get("head", {c, net.in_chans, 3, 3});
    net.head_bias = get("head_bias", {c});
    net.norm = get("norm", {c});
    net.norm_bias = get("norm_bias", {c});
    net.conv_2 = get("conv_2", {c, c, 3, 3});
    net.conv_2_bias = get("conv_2_bias", {c});
    net.upsampler = get("upsampler", {out, c, 3, 3});
    net.upsampler_bias = get("upsampler_bias", {out});
    const auto groups = network["groups"].cast<std::vector<py::dict>>();
    if ((int)groups.size() != net.num_layers) throw py::value_error("groups must have num_layers entries");
    std::vector<sm_group_weights> group_list;
    for (size_t i = 0; i < groups.size(); ++i)
      group_list.push_back(
          group_weights(groups[i], "groups[" + std::to_string(i) + "].", net, rank_sum, alive));
    net.groups = group_list.data();

    sm_engine* engine = nullptr;
    check(sm_engine_create(&net, bf16, &engine));
    engine_.reset(engine);
    topk_ = net.topk;
  }

  int64_t workspace(int64_t h, int64_t w, int threads, int64_t limit) const {
    sm_forward_params params = {};
    params.engine = engine_.get();
    params.h = h;
    params.w = w;
    params.threads = threads;
    params.workspace_limit = limit;
    int64_t bytes = 0;
    check(sm_engine_workspace(&params, &bytes));
    return bytes;
  }

  // Pointers as integers: this module does not know torch.
  void forward(uintptr_t input, uintptr_t output, bool u8, int64_t n, int64_t h, int64_t w, int threads,
               int64_t limit, uintptr_t workspace, int64_t workspace_bytes) const {
    SignalPoll signals;
    const sm_forward_params params = {engine_.get(),
                                      reinterpret_cast<const void*>(input),
                                      reinterpret_cast<void*>(output),
                                      u8,
                                      n,
                                      h,
                                      w,
                                      threads,
                                      limit,
                                      reinterpret_cast<void*>(workspace),
                                      workspace_bytes,
                                      SignalPoll::poll,
                                      &signals};
    run([&] { return sm_engine_forward(&params); });
  }

  int64_t tile_workspace(const Area& area, int threads) const {
    const sm_tile_params params = tile_params(area, threads);
    int64_t bytes = 0;
    check(sm_engine_tile_workspace(&params, &bytes));
    return bytes;
  }

  // Which of the pointers a phase needs is in seemore.h; the others may be 0.
  void tile(sm_phase phase, int group, const Area& area, int threads, uintptr_t workspace,
            int64_t workspace_bytes, uintptr_t stream, uintptr_t input, uintptr_t output, bool u8,
            uintptr_t sums, uintptr_t aggregated, uintptr_t map, const std::vector<int>& experts,
            const std::vector<float>& weights) const {
    if (phase == SM_PHASE_GROUP && ((int)experts.size() != topk_ || (int)weights.size() != topk_))
      throw py::value_error("experts and weights must have topk entries");
    SignalPoll signals;
    sm_tile_params params = tile_params(area, threads);
    params.phase = phase;
    params.group = group;
    params.stream = reinterpret_cast<float*>(stream);
    params.input = reinterpret_cast<const void*>(input);
    params.output = reinterpret_cast<void*>(output);
    params.u8 = u8;
    params.sums = reinterpret_cast<double*>(sums);
    params.aggregated = reinterpret_cast<float*>(aggregated);
    params.map = reinterpret_cast<float*>(map);
    params.experts = experts.data();
    params.weights = weights.data();
    params.workspace = reinterpret_cast<void*>(workspace);
    params.workspace_bytes = workspace_bytes;
    params.poll = SignalPoll::poll;
    params.poll_context = &signals;
    run([&] { return sm_engine_tile(&params); });
  }

 private:
  sm_tile_params tile_params(const Area& area, int threads) const {
    sm_tile_params params = {};
    params.engine = engine_.get();
    params.full_h = area[0];
    params.full_w = area[1];
    params.top = area[2];
    params.left = area[3];
    params.h = area[4];
    params.w = area[5];
    params.y0 = area[6];
    params.y1 = area[7];
    params.x0 = area[8];
    params.x1 = area[9];
    params.threads = threads;
    return params;
  }

  template <class F>
  static void run(F function) {
    sm_status status;
    {
      py::gil_scoped_release release;
      status = function();
    }
    if (status == SM_ERROR_INTERRUPTED)
      throw py::error_already_set();  // KeyboardInterrupt, or what the handler raised
    check(status);
  }

  std::unique_ptr<sm_engine, Destroy> engine_;
  int topk_ = 0;
};

}  // namespace

void bind_engine(py::module_& m) {
  py::enum_<sm_phase>(m, "Phase")
      .value("HEAD", SM_PHASE_HEAD)
      .value("POOL", SM_PHASE_POOL)
      .value("CALIBRATE", SM_PHASE_CALIBRATE)
      .value("GROUP", SM_PHASE_GROUP)
      .value("TAIL", SM_PHASE_TAIL);
  py::class_<Engine>(m, "Engine", "The packed network; see seemore_fast.engine, which is its only user.")
      .def(py::init<const py::dict&, bool>(), py::arg("network"), py::arg("bf16"))
      .def("workspace", &Engine::workspace, py::arg("h"), py::arg("w"), py::arg("threads"), py::arg("limit"),
           "Bytes of workspace for one forward. Raises MemoryError if `limit` (0: none) is too small.")
      .def("forward", &Engine::forward, py::arg("input"), py::arg("output"), py::arg("u8"), py::arg("n"),
           py::arg("h"), py::arg("w"), py::arg("threads"), py::arg("limit"), py::arg("workspace"),
           py::arg("workspace_bytes"))
      .def("tile_workspace", &Engine::tile_workspace, py::arg("area"), py::arg("threads"),
           "Bytes of workspace for any phase of a tile.")
      .def("tile", &Engine::tile, py::arg("phase"), py::arg("group"), py::arg("area"), py::arg("threads"),
           py::arg("workspace"), py::arg("workspace_bytes"), py::arg("stream") = 0, py::arg("input") = 0,
           py::arg("output") = 0, py::arg("u8") = false, py::arg("sums") = 0, py::arg("aggregated") = 0,
           py::arg("map") = 0, py::arg("experts") = std::vector<int>(),
           py::arg("weights") = std::vector<float>());
}

}  // namespace seemore
