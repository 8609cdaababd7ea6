// Binds the whole-network section of seemore.h: class Engine.
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bindings/network.h"

namespace py = pybind11;

namespace seemore {
namespace {

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
    const NetworkWeights weights(network);
    sm_engine* engine = nullptr;
    check(sm_engine_create(&weights.net, bf16, &engine));
    engine_.reset(engine);
    topk_ = weights.net.topk;
  }

  int64_t workspace(int64_t h, int64_t w, int threads, int64_t limit, int64_t n) const {
    sm_forward_params params = {};
    params.engine = engine_.get();
    params.n = n;
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
  py::class_<Engine>(m, "Engine",
                     "The packed network; see seemore_fast.engines.cpu_engine, which is its only user.")
      .def(py::init<const py::dict&, bool>(), py::arg("network"), py::arg("bf16"))
      .def("workspace", &Engine::workspace, py::arg("h"), py::arg("w"), py::arg("threads"), py::arg("limit"),
           py::arg("n") = 1,
           "Bytes of workspace for a forward of n images. Raises MemoryError if `limit` (0: none) is too "
           "small.")
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
