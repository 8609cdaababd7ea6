// Binds the operations: tensors come as addresses (torch's data_ptr()), the sizes as one tuple.
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

// Other Python threads go on meanwhile.
template <class Params>
void run(sm_status (*op)(const Params*), const Params& params) {
  sm_status status;
  {
    py::gil_scoped_release released;
    status = op(&params);
  }
  check(status);
}

void layer_norm2d(Address x, Address weight, Address bias, Address out, Shape shape, float eps, int threads) {
  const auto [n, c, h, w] = shape;
  run(sm_layer_norm2d, {in(x), in(weight), in(bias), out_of(out), n, c, h, w, eps, threads});
}

void striped_conv2d(Address x, Address w1, Address b1, Address w2, Address b2, Address out, Shape shape,
                    int64_t k, bool gelu, int threads) {
  const auto [n, c, h, w] = shape;
  run(sm_striped_conv2d, {in(x), in(w1), in(b1), in(w2), in(b2), out_of(out), n, c, h, w, k, gelu, threads});
}

void low_rank_experts(Address x, Address k, Address b_weight, Address b_bias, Address c_weight,
                      Address c_bias, Address a_weight, Address a_bias, Address out, Shape shape,
                      int64_t rank, int threads) {
  const auto [n, c, h, w] = shape;
  run(sm_low_rank_experts, {in(x), in(k), in(b_weight), in(b_bias), in(c_weight), in(c_bias), in(a_weight),
                            in(a_bias), out_of(out), n, c, h, w, rank, threads});
}

void mix_experts(Address x, Address k, Address router_weight, Address b_weight, Address b_bias,
                 Address c_weight, Address c_bias, Address a_weight, Address a_bias,
                 const std::vector<int64_t>& ranks, Address out, Address weights, Address mean, Shape shape,
                 int64_t topk, int threads) {
  const auto [n, c, h, w] = shape;
  const int64_t experts = static_cast<int64_t>(ranks.size());
  run(sm_mix_experts, {in(x),
                       in(k),
                       in(router_weight),
                       in(b_weight),
                       in(b_bias),
                       in(c_weight),
                       in(c_bias),
                       in(a_weight),
                       in(a_bias),
                       ranks.data(),
                       out_of(out),
                       out_of(weights),
                       out_of(mean),
                       n,
                       c,
                       h,
                       w,
                       experts,
                       topk,
                       threads});
}

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
  run(sm_op, {op.c_str(), given.data(), slope, kept.data(), results.data(), n, c, h, w, kernel, rank, experts,
              ranks.data(), topk, recursive, gelu, shuffle, eps, threads});
}

}  // namespace

void bind_ops(py::module_& m) {
  using py::arg;
  m.def("layer_norm2d", layer_norm2d, arg("x"), arg("weight"), arg("bias"), arg("out"), arg("shape"),
        arg("eps"), arg("threads"));
  m.def("striped_conv2d", striped_conv2d, arg("x"), arg("w1"), arg("b1"), arg("w2"), arg("b2"), arg("out"),
        arg("shape"), arg("k"), arg("gelu"), arg("threads"));
  m.def("low_rank_experts", low_rank_experts, arg("x"), arg("k"), arg("b_weight"), arg("b_bias"),
        arg("c_weight"), arg("c_bias"), arg("a_weight"), arg("a_bias"), arg("out"), arg("shape"), arg("rank"),
        arg("threads"));
  m.def("mix_experts", mix_experts, arg("x"), arg("k"), arg("router_weight"), arg("b_weight"), arg("b_bias"),
        arg("c_weight"), arg("c_bias"), arg("a_weight"), arg("a_bias"), arg("ranks"), arg("out"),
        arg("weights"), arg("mean"), arg("shape"), arg("topk"), arg("threads"));
  m.def("run_op", run_op, arg("op"), arg("inputs"), arg("grad"), arg("saved"), arg("outputs"), arg("shape"),
        py::kw_only(), arg("backward"), arg("threads"), arg("kernel") = 1, arg("rank") = 1,
        arg("ranks") = std::vector<int64_t>(), arg("topk") = 1, arg("recursive") = 0, arg("gelu") = false,
        arg("shuffle") = false, arg("eps") = 1e-6f);
}

}  // namespace seemore
