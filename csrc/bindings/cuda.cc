// Binds seemore_cuda.h: programs, class CudaEngine and the operators. Also part of the module that runs the
// kernels in cudasim.
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/network.h"
#include "seemore_cuda.h"

namespace py = pybind11;

namespace seemore {
namespace {

struct DestroyCuda {
  void operator()(sm_cuda_engine* engine) const { sm_cuda_engine_destroy(engine); }
};

class CudaEngine {
 public:
  CudaEngine(const py::dict& network, int precision, int device, uintptr_t host, uintptr_t weights) {
    const NetworkWeights given(network);
    sm_cuda_engine* engine = nullptr;
    sm_status status;
    {
      py::gil_scoped_release release;
      status =
          sm_cuda_engine_create(&given.net, static_cast<sm_cuda_precision>(precision), device,
                                reinterpret_cast<void*>(host), reinterpret_cast<void*>(weights), &engine);
    }
    check(status);
    engine_.reset(engine);
  }

  int64_t workspace(int64_t n, int64_t h, int64_t w) const {
    int64_t bytes = 0;
    check(sm_cuda_engine_workspace(engine_.get(), n, h, w, &bytes));
    return bytes;
  }

  using Part = std::tuple<std::string, int64_t, int64_t>;  // name, where it begins, bytes

  std::vector<Part> parts(int64_t n, int64_t h, int64_t w) const {
    const auto add = [](void* parts, const char* name, int64_t at, int64_t bytes) {
      static_cast<std::vector<Part>*>(parts)->emplace_back(name, at, bytes);
    };
    std::vector<Part> found;
    check(sm_cuda_engine_parts(engine_.get(), n, h, w, add, &found));
    return found;
  }

  // Pointers and the stream as integers: this module does not know torch.
  void forward(uintptr_t input, uintptr_t output, int pixels, int64_t n, int64_t h, int64_t w,
               uintptr_t workspace, int64_t workspace_bytes, uintptr_t stream, int64_t launches) const {
    const sm_cuda_forward_params params = {engine_.get(),
                                           reinterpret_cast<const void*>(input),
                                           reinterpret_cast<void*>(output),
                                           static_cast<sm_cuda_pixels>(pixels),
                                           n,
                                           h,
                                           w,
                                           reinterpret_cast<void*>(workspace),
                                           workspace_bytes,
                                           reinterpret_cast<void*>(stream),
                                           launches};
    sm_status status;
    {
      py::gil_scoped_release release;
      status = sm_cuda_engine_forward(&params);
    }
    check(status);
  }

  // channels, ranks, router_h, router_w, map_element, workspace of sm_cuda_tile_layout.
  using Layout = std::array<int64_t, 6>;

  Layout tile_layout(int64_t full_h, int64_t full_w, int64_t h, int64_t w) const {
    sm_cuda_tile_layout layout = {};
    check(sm_cuda_engine_tile_layout(engine_.get(), full_h, full_w, h, w, &layout));
    return {layout.channels, layout.ranks,       layout.router_h,
            layout.router_w, layout.map_element, layout.workspace};
  }

  // area: full_h, full_w, top, left, h, w. Which of the pointers a phase needs is in seemore_cuda.h.
  void tile(int phase, int group, const std::array<int64_t, 6>& area, uintptr_t workspace,
            int64_t workspace_bytes, uintptr_t cuda_stream, int pixels, uintptr_t stream, uintptr_t input,
            uintptr_t output, uintptr_t low, uintptr_t partial, uintptr_t map, uintptr_t weight,
            uintptr_t bias) const {
    sm_cuda_tile_params params = {};
    params.engine = engine_.get();
    params.phase = static_cast<sm_phase>(phase);
    params.group = group;
    params.full_h = area[0], params.full_w = area[1];
    params.top = area[2], params.left = area[3], params.h = area[4], params.w = area[5];
    params.stream = reinterpret_cast<void*>(stream);
    params.input = reinterpret_cast<const void*>(input);
    params.output = reinterpret_cast<void*>(output);
    params.pixels = static_cast<sm_cuda_pixels>(pixels);
    params.low = reinterpret_cast<float*>(low);
    params.partial = reinterpret_cast<float*>(partial);
    params.map = reinterpret_cast<void*>(map);
    params.weight = reinterpret_cast<float*>(weight);
    params.bias = reinterpret_cast<float*>(bias);
    params.workspace = reinterpret_cast<void*>(workspace);
    params.workspace_bytes = workspace_bytes;
    params.cuda_stream = reinterpret_cast<void*>(cuda_stream);
    sm_status status;
    {
      py::gil_scoped_release release;
      status = sm_cuda_engine_tile(&params);
    }
    check(status);
  }

 private:
  std::unique_ptr<sm_cuda_engine, DestroyCuda> engine_;
};

// Launches of this thread on a stream, captured from construction to end().
class CudaGraph {
 public:
  CudaGraph(int device, uintptr_t stream) : device_(device), stream_(reinterpret_cast<void*>(stream)) {
    check(sm_cuda_capture_begin(device_, stream_));
    capturing_ = true;
  }
  ~CudaGraph() {
    if (capturing_) sm_cuda_capture_end(device_, stream_, &graph_);
    if (graph_) sm_cuda_graph_destroy(graph_);
  }
  CudaGraph(const CudaGraph&) = delete;

  void end() {
    if (!capturing_) return;
    capturing_ = false;
    sm_status status;
    {
      py::gil_scoped_release release;
      status = sm_cuda_capture_end(device_, stream_, &graph_);
    }
    check(status);
  }

  void launch(uintptr_t stream) const {
    if (!graph_) throw py::value_error("nothing has been captured");
    check(sm_cuda_graph_launch(graph_, reinterpret_cast<void*>(stream)));
  }

 private:
  int device_;
  void* stream_;
  bool capturing_ = false;
  sm_cuda_graph* graph_ = nullptr;
};

using Program = std::array<std::string, 3>;  // source, options, special options

void add_program(void* programs, const char* source, const char* options, const char* special) {
  static_cast<std::vector<Program>*>(programs)->push_back({source, options, special});
}

std::vector<Program> network_programs(const py::dict& network, int precision, int device, int capability) {
  const NetworkWeights given(network);
  std::vector<Program> found;
  check(sm_cuda_engine_programs(&given.net, static_cast<sm_cuda_precision>(precision), device, capability,
                                add_program, &found));
  return found;
}

std::vector<Program> op_programs(int pixels) {
  std::vector<Program> found;
  sm_cuda_op_programs(static_cast<sm_cuda_pixels>(pixels), add_program, &found);
  return found;
}

int64_t weight_bytes(const py::dict& network, int precision, int device) {
  const NetworkWeights given(network);
  int64_t bytes = 0;
  check(sm_cuda_engine_size(&given.net, static_cast<sm_cuda_precision>(precision), device, &bytes));
  return bytes;
}

void load(int device, const Program& program, const py::bytes& image) {
  const auto& [source, options, special] = program;
  const std::string_view bytes = image;
  sm_status status;
  {
    py::gil_scoped_release release;
    status = sm_cuda_load(device, source.c_str(), options.c_str(), special.c_str(), bytes.data(),
                          static_cast<int64_t>(bytes.size()));
  }
  check(status);
}

bool is_loaded(int device, const Program& program) {
  return sm_cuda_is_loaded(device, program[0].c_str(), program[1].c_str(), program[2].c_str());
}

using Buffer = std::pair<uintptr_t, int64_t>;  // address and bytes

std::vector<sm_cuda_buffer> buffers_of(const std::vector<Buffer>& given) {
  std::vector<sm_cuda_buffer> buffers;
  for (const auto& [address, bytes] : given) buffers.push_back({reinterpret_cast<void*>(address), bytes});
  return buffers;
}

// What sm_op_params and sm_cuda_op_params have in common.
struct OpSizes {
  std::array<int64_t, 4> shape;
  int64_t kernel, rank, experts;
};

sm_cuda_op_params params_of(const std::string& op, const OpSizes& sizes) {
  sm_cuda_op_params params = {};
  params.op = op.c_str();
  const auto [n, c, h, w] = sizes.shape;
  params.n = n, params.c = c, params.h = h, params.w = w;
  params.kernel = sizes.kernel;
  params.rank = sizes.rank;
  params.experts = sizes.experts;
  return params;
}

std::optional<std::string> op_obstacle(const std::string& op, const std::array<int64_t, 4>& shape,
                                       int64_t kernel, int64_t rank, int64_t experts) {
  const sm_cuda_op_params params = params_of(op, {shape, kernel, rank, experts});
  if (sm_cuda_op_takes(&params) == SM_OK) return std::nullopt;
  return sm_last_error();
}

// allocate(bytes): the address of memory on the device that lives until the call returns.
void run_cuda_op(const std::string& op, const std::vector<Buffer>& inputs, const Buffer& grad,
                 const std::vector<Buffer>& saved, const std::vector<Buffer>& outputs,
                 const std::array<int64_t, 4>& shape, int pixels, int device, uintptr_t stream,
                 const py::function& allocate, bool backward, int64_t kernel, int64_t rank, int64_t experts,
                 const std::vector<int64_t>& ranks, int64_t topk, bool gelu) {
  const auto from = buffers_of(inputs), kept = buffers_of(saved), to = buffers_of(outputs);
  sm_cuda_op_params params = params_of(op, {shape, kernel, rank, experts});
  params.inputs = from.data(), params.input_count = static_cast<int>(from.size());
  params.saved = kept.data(), params.saved_count = static_cast<int>(kept.size());
  params.outputs = to.data(), params.output_count = static_cast<int>(to.size());
  params.backward = backward;
  params.grad = {reinterpret_cast<void*>(grad.first), grad.second};
  params.pixels = static_cast<sm_cuda_pixels>(pixels);
  params.gelu = gelu;
  params.ranks = ranks.empty() ? nullptr : ranks.data();
  params.topk = topk;
  params.device = device;
  params.stream = reinterpret_cast<void*>(stream);
  check(sm_cuda_op_workspace(&params, &params.workspace_bytes));
  params.workspace = reinterpret_cast<void*>(allocate(params.workspace_bytes).cast<uintptr_t>());
  sm_status status;
  {
    py::gil_scoped_release release;
    status = sm_cuda_op(&params);
  }
  check(status);
}

}  // namespace

void bind_cuda(py::module_& m) {
  using py::arg;
  m.def(
      "cuda_devices",
      [] {
        int count = 0;
        check(sm_cuda_devices(&count));
        return count;
      },
      "How many GPUs can be used. Raises BackendError with the reason where there is none.");
  m.def(
      "cuda_capability",
      [](int device) {
        int capability = 0;
        check(sm_cuda_capability(device, &capability));
        return capability;
      },
      arg("device"), "10 major + minor. Raises BackendError for a GPU that cannot be used.");
  m.def("cuda_network_programs", network_programs, arg("network"), arg("precision"), arg("device"),
        arg("capability"),
        "What its kernels are compiled from: source, options, options for this network alone. Device -1: for "
        "GPUs of that capability.");
  m.def("cuda_op_programs", op_programs, arg("pixels"), "The same for the operators.");
  m.def("cuda_load", load, arg("device"), arg("program"), arg("image"), "Loads a program's cubin for good.");
  m.def("cuda_is_loaded", is_loaded, arg("device"), arg("program"));
  m.def("cuda_weight_bytes", weight_bytes, arg("network"), arg("precision"), arg("device"),
        "Bytes of the packed network.");
  py::class_<CudaEngine>(m, "CudaEngine",
                         "The packed network on a GPU; see seemore_fast.engines.cuda_engine, its only user.")
      .def(py::init<const py::dict&, int, int, uintptr_t, uintptr_t>(), arg("network"), arg("precision"),
           arg("device"), arg("host"), arg("weights"))
      .def("workspace", &CudaEngine::workspace, arg("n"), arg("h"), arg("w"),
           "Bytes of device memory for one forward.")
      .def("parts", &CudaEngine::parts, arg("n"), arg("h"), arg("w"),
           "The workspace's parts: name, where it begins, in bytes, and how long it is.")
      .def("forward", &CudaEngine::forward, arg("input"), arg("output"), arg("pixels"), arg("n"), arg("h"),
           arg("w"), arg("workspace"), arg("workspace_bytes"), arg("stream"), arg("launches") = 0)
      .def("tile_layout", &CudaEngine::tile_layout, arg("full_h"), arg("full_w"), arg("h"), arg("w"),
           "Of a crop: channels and ranks as they are padded, height and width of the router's tiles, bytes "
           "of a value of the map, and of workspace.")
      .def("tile", &CudaEngine::tile, arg("phase"), arg("group"), arg("area"), arg("workspace"),
           arg("workspace_bytes"), arg("cuda_stream"), arg("pixels") = 0, arg("stream") = 0, arg("input") = 0,
           arg("output") = 0, arg("low") = 0, arg("partial") = 0, arg("map") = 0, arg("weight") = 0,
           arg("bias") = 0);
  py::class_<CudaGraph>(
      m, "CudaGraph", "Launches of this thread on a stream, captured from construction to end(), and again.")
      .def(py::init<int, uintptr_t>(), arg("device"), arg("stream"))
      .def("end", &CudaGraph::end)
      .def("launch", &CudaGraph::launch, arg("stream"));
  m.def("cuda_op_obstacle", op_obstacle, "Why the kernels cannot run the operator; None if they can.",
        arg("op"), arg("shape"), py::kw_only(), arg("kernel") = 1, arg("rank") = 1, arg("experts") = 0);
  m.def("cuda_op", run_cuda_op, "An operator; see seemore_fast.ops._cuda, which is its only user.", arg("op"),
        arg("inputs"), arg("grad"), arg("saved"), arg("outputs"), arg("shape"), arg("pixels"), arg("device"),
        arg("stream"), arg("allocate"), py::kw_only(), arg("backward"), arg("kernel") = 1, arg("rank") = 1,
        arg("experts") = 0, arg("ranks") = std::vector<int64_t>(), arg("topk") = 1, arg("gelu") = false);
}

}  // namespace seemore
