// Binds seemore_cuda.h: class CudaEngine. Also part of the module that runs the kernels in cudasim.
#include <memory>
#include <string>

#include "bindings_network.h"
#include "seemore_cuda.h"

namespace py = pybind11;

namespace seemore {
namespace {

struct Destroy {
  void operator()(sm_cuda_engine* engine) const { sm_cuda_engine_destroy(engine); }
};

class CudaEngine {
 public:
  CudaEngine(const py::dict& network, int precision, int device) {
    const NetworkWeights weights(network);
    sm_cuda_engine* engine = nullptr;
    sm_status status;
    {
      py::gil_scoped_release release;
      status =
          sm_cuda_engine_create(&weights.net, static_cast<sm_cuda_precision>(precision), device, &engine);
    }
    check(status);
    engine_.reset(engine);
  }

  int64_t workspace(int64_t n, int64_t h, int64_t w) const {
    int64_t bytes = 0;
    check(sm_cuda_engine_workspace(engine_.get(), n, h, w, &bytes));
    return bytes;
  }

  // Pointers and the stream as integers: this module does not know torch.
  void forward(uintptr_t input, uintptr_t output, int pixels, int64_t n, int64_t h, int64_t w,
               uintptr_t workspace, int64_t workspace_bytes, uintptr_t stream) const {
    const sm_cuda_forward_params params = {engine_.get(),
                                           reinterpret_cast<const void*>(input),
                                           reinterpret_cast<void*>(output),
                                           static_cast<sm_cuda_pixels>(pixels),
                                           n,
                                           h,
                                           w,
                                           reinterpret_cast<void*>(workspace),
                                           workspace_bytes,
                                           reinterpret_cast<void*>(stream)};
    sm_status status;
    {
      py::gil_scoped_release release;
      status = sm_cuda_engine_forward(&params);
    }
    check(status);
  }

 private:
  std::unique_ptr<sm_cuda_engine, Destroy> engine_;
};

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
  py::class_<CudaEngine>(m, "CudaEngine",
                         "The packed network on a GPU; see seemore_fast.engine_cuda, which is its only user.")
      .def(py::init<const py::dict&, int, int>(), arg("network"), arg("precision"), arg("device"))
      .def("workspace", &CudaEngine::workspace, arg("n"), arg("h"), arg("w"),
           "Bytes of device memory for one forward.")
      .def("forward", &CudaEngine::forward, arg("input"), arg("output"), arg("pixels"), arg("n"), arg("h"),
           arg("w"), arg("workspace"), arg("workspace_bytes"), arg("stream"));
}

}  // namespace seemore
