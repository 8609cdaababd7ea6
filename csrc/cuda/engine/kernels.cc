// Which kernels a network runs on, from which sources, compiled with which options.
#include "cuda/engine/kernels.h"

namespace seemore {
namespace cuda {
namespace {

// visit(source, name, kernel) for each.
template <class Visit>
void visit_kernels(const Network& net, bool sme_rounds, Kernels& k, Visit visit) {
  if (net.head.product)
    visit("engine/head_product", "head_product", k.head_product);
  else
    visit("engine/head", "head", k.head);
  if (net.wide) {
    visit("engine/wide", "filter_low", k.filter_low);
    visit("engine/wide", "filter", k.filter);
    visit("engine/wide", "filter_to_float", k.filter_to_float);
    visit("engine/wide", "normalise", k.normalise);
    visit("engine/wide", "product", k.product);
    visit("engine/wide", "logits", k.logits);
    visit("engine/wide", "route", k.route);
    visit("engine/wide", "project_low", k.project_low);
    visit("engine/wide", "expert_products", k.expert_products);
    visit("engine/wide", "upsample_wide", k.upsample_wide);
    return;
  }
  visit("engine/rme", "rme", k.rme);
  visit("engine/mix_ffn", "coarse", k.coarse);
  visit("engine/mix_ffn", "mix_ffn", k.mix_ffn);
  if (sme_rounds) {
    visit("engine/sme", "sme", k.sme);
  } else {
    visit("engine/sme11", "sme11", k.sme11);
    visit("engine/sme11", "sme11_tall", k.sme11_tall);
    visit("engine/sme11", "sme11_broad", k.sme11_broad);
  }
  visit("engine/ffn", "ffn", k.ffn);
  visit("engine/tail", "conv", k.conv);
  if (upsample_pass(net.scale, net.in_chans) == 6)
    visit("engine/tail", "upsample4", k.upsample);
  else
    visit("engine/tail", net.scale == 2 ? "upsample2" : "upsample", k.upsample);
  if (net.recursive > 2) visit("engine/wide", "filter_low", k.filter_low);
}

Program program_of(const Network& net, sm_cuda_precision precision, const std::string& source) {
  constexpr const char* kPrecisions[] = {"Fp32", "Tf32", "Fp16", "Bf16"};
  Program program = {source, std::string("-DSM_PRECISION=") + kPrecisions[precision], ""};
  if (source == "engine/wide") return program;
  program.special = "-DSM_SPECIAL";
  auto special = [&](const char* name, int value) {
    program.special += " -DSM_" + std::string(name) + "=" + std::to_string(value);
  };
  if (source == "engine/head") {
    special("IN_CHANS", net.in_chans);
    special("CHANNELS", 8 * net.width);
    return program;
  }
  program.options += " -DSM_WIDTH=" + std::to_string(net.width);
  special("DIM", net.dim);
  if (source == "engine/rme" || source == "engine/mix_ffn") {
    special("EXPERTS", net.experts);
    special("RANKS", net.ranks);
  }
  if (source == "engine/mix_ffn") special("TOPK", net.topk);
  if (source == "engine/sme11" || source == "engine/sme") special("KERNEL", net.kernel);
  if (source == "engine/head_product") special("IN_CHANS", net.in_chans);
  if (source == "engine/tail") {
    special("IN_CHANS", net.in_chans);
    special("SCALE", net.scale);
    special("OUTPUTS", net.upsample.conv.tiles);
  }
  return program;
}

}  // namespace

std::vector<Program> programs_of(const Network& net, sm_cuda_precision precision, bool sme_rounds) {
  std::vector<Program> found;
  Kernels unused;
  visit_kernels(net, sme_rounds, unused, [&](const char* source, const char*, auto&) {
    if (found.empty() || found.back().source != source) found.push_back(program_of(net, precision, source));
  });
  return found;
}

const char* find_kernels(int device, const Network& net, sm_cuda_precision precision, bool sme_rounds,
                         Kernels* kernels) {
  const char* error = nullptr;
  visit_kernels(net, sme_rounds, *kernels, [&](const char* source, const char* name, auto& kernel) {
    if (!error) error = find_kernel(device, program_of(net, precision, source), name, &kernel.function);
  });
  return error;
}

}  // namespace cuda
}  // namespace seemore
