// Binds the operators: tensors come as addresses (torch's data_ptr()), the sizes as one tuple.
// The caller (seemore_fast/ops) answers for dtype, contiguity and shape: nothing here can see them.
#include <array>
#include <string>

#include "bindings/bindings.h"

namespace py = pybind11;

namespace seemore {
namespace {

using Address = uintptr_t;
using Shape = std::array<int64_t, 4>;

const float* in(Address address) { return reinterpret_cast<const float*>(address); }
float* out_of(Address address) { return reinterpret_cast<float*>(address); }

std::vector<const float*> all_in(const std::vector<Address>& addresses) {
  std::vector<const float*> pointers;
  for (Address address : addresses) pointers.push_back(in(address));
  return pointers;
}

void run_op(const std::string& op, const std::vector<Address>& inputs, Address grad,
            const std::vector<Address>& saved, const std::vector<Address>& outputs, Shape shape,
            bool backward, int threads, int64_t kernel, int64_t rank, const std::vector<int64_t>& ranks,
            int64_t topk, int64_t recursive, bool gelu, bool shuffle, float eps) {
  const auto [n, c, h, w] = shape;
  const std::vector<const float*> given = all_in(inputs), kept = all_in(saved);
  std::vector<float*> results;
  for (Address address : outputs) results.push_back(out_of(address));
  static const float nothing = 0;  // an empty batch's gradient may have no address
  const float* const slope = backward ? grad ? in(grad) : &nothing : nullptr;
  const int64_t experts = static_cast<int64_t>(ranks.size());
  const sm_op_params params = {
      op.c_str(), given.data(), slope,        kept.data(), results.data(), n,    c,       h,   w,      kernel,
      rank,       experts,      ranks.data(), topk,        recursive,      gelu, shuffle, eps, threads};
  sm_status status;
  {
    py::gil_scoped_release released;  // other Python threads go on meanwhile
    status = sm_op(&params);
  }
  check(status);
}

// `config`: layers, in_chans, scale, kernel, topk, recursive, shuffle.
void run_network_op(const std::vector<Address>& inputs, Address grad, const std::vector<Address>& saved,
                    const std::vector<Address>& outputs, Shape shape, bool backward, int threads,
                    const std::vector<int64_t>& ranks, const std::array<int64_t, 7>& config, Address mean,
                    float img_range, float eps, bool bf16) {
  const auto [layers, in_chans, scale, kernel, topk, recursive, shuffle] = config;
  const std::vector<const float*> given = all_in(inputs), kept = all_in(saved);
  std::vector<float*> results;
  for (Address address : outputs) results.push_back(out_of(address));
  const auto [n, c, h, w] = shape;
  static const float nothing = 0;
  const sm_network_op_params params = {
      {"network", given.data(), backward ? grad ? in(grad) : &nothing : nullptr, kept.data(), results.data(),
       n, c, h, w, kernel, 1, (int64_t)ranks.size(), ranks.data(), topk, recursive, 0, (int)shuffle, eps,
       threads},
      (int64_t)given.size(),
      layers,
      in_chans,
      scale,
      img_range,
      in(mean),
      bf16};
  sm_status status;
  {
    py::gil_scoped_release released;
    status = sm_network_op(&params);
  }
  check(status);
}

}  // namespace

void bind_ops(py::module_& m) {
  using py::arg;
  m.def("run_op", run_op, arg("op"), arg("inputs"), arg("grad"), arg("saved"), arg("outputs"), arg("shape"),
        py::kw_only(), arg("backward"), arg("threads"), arg("kernel") = 1, arg("rank") = 1,
        arg("ranks") = std::vector<int64_t>(), arg("topk") = 1, arg("recursive") = 0, arg("gelu") = false,
        arg("shuffle") = false, arg("eps") = 1e-6f);
  m.def("run_network_op", run_network_op, arg("inputs"), arg("grad"), arg("saved"), arg("outputs"),
        arg("shape"), py::kw_only(), arg("backward"), arg("threads"), arg("ranks"), arg("config"),
        arg("mean"), arg("img_range"), arg("eps"), arg("bf16"));
}

}  // namespace seemore
