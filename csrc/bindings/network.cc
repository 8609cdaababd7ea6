// Reads nested dicts of float32 arrays into the structs of seemore.h.
#include "bindings/network.h"

#include <string>

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

}  // namespace

NetworkWeights::NetworkWeights(const py::dict& network) {
  auto number = [&](const char* name) { return network[name].cast<int>(); };
  ranks = network["ranks"].cast<std::vector<int>>();
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
  const auto group_dicts = network["groups"].cast<std::vector<py::dict>>();
  if ((int)group_dicts.size() != net.num_layers) throw py::value_error("groups must have num_layers entries");
  for (size_t i = 0; i < group_dicts.size(); ++i)
    groups.push_back(
        group_weights(group_dicts[i], "groups[" + std::to_string(i) + "].", net, rank_sum, alive));
  net.groups = groups.data();
}

}  // namespace seemore
