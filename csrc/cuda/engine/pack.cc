// Packs folded weights: matrices in fragments (numeric.cuh), depthwise kernels with channels last.
#include "cuda/engine/pack.h"

#include <cmath>
#include <cstring>

namespace seemore {
namespace cuda {
namespace {

int round_up(int value, int to) { return (value + to - 1) / to * to; }

uint16_t half_bits(float x) {
  const _Float16 narrow = x;
  uint16_t bits;
  memcpy(&bits, &narrow, 2);
  return bits;
}

uint16_t bf16_bits(float x) {
  if (x != x) return 0x7fff;
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

float tf32_value(float x) {
  if (!std::isfinite(x)) return x;
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits = (bits + 0x1000) & ~0x1fffu;
  memcpy(&x, &bits, 4);
  return x;
}

struct Packer {
  sm_cuda_precision precision;
  int channels;  // CP
  unsigned char *memory, *address;
  size_t used = 0;

  // Room for n values: where to write them (null when only counting), and their address on the device.
  template <class T>
  T* room(size_t n, const T** device) {
    T* here = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
    *device = reinterpret_cast<const T*>(address + used);
    used += (n * sizeof(T) + 255) / 256 * 256;
    return here;
  }

  // `n` floats, followed by zeros up to `padded`.
  const float* copy(const float* values, int n, int padded) {
    const float* device;
    if (float* here = room(padded, &device))
      for (int i = 0; i < padded; ++i) here[i] = i < n ? values[i] : 0.0f;
    return device;
  }

  // [rows, columns] -> [columns, padded rows], or with `padded_columns` also zero columns.
  const float* transposed(const float* values, int rows, int columns, int padded_rows, int padded_columns) {
    const float* device;
    if (float* here = room((size_t)padded_rows * padded_columns, &device))
      for (int c = 0; c < padded_columns; ++c)
        for (int r = 0; r < padded_rows; ++r)
          here[c * padded_rows + r] = r < rows && c < columns ? values[r * columns + c] : 0.0f;
    return device;
  }

  Depthwise depthwise(const float* weight, const float* bias, int dim, int taps) {
    return {transposed(weight, dim, taps, channels, taps), copy(bias, dim, channels)};
  }

  // A matrix, or `taps` of them, of `inputs` (a multiple of 8) times 8 tiles: value(tap, output, input).
  template <class F>
  Dense dense(int taps, int inputs, int tiles, const float* bias, int outputs, F value) {
    const bool narrow = precision == SM_CUDA_FP16 || precision == SM_CUDA_BF16;
    const int chunks = inputs / 8, step = narrow ? 2 : 1;
    const float* words;
    float* here = room((size_t)taps * chunks * tiles * (narrow ? 32 : 64), &words);
    for (int tap = 0; here && tap < taps; ++tap)
      for (int chunk = 0; chunk < chunks; chunk += step)
        for (int tile = 0; tile < tiles; ++tile) {
          auto at = [&](int out, int in) { return value(tap, 8 * tile + out, 8 * chunk + in); };
          here = narrow ? narrow_block(here, chunk + 1 < chunks ? 2 : 1, at) : wide_block(here, at);
        }
    return {words, copy(bias, outputs, 8 * tiles), tiles};
  }

  // 8 or 16 inputs: [lane][chunk] of two values each.
  template <class F>
  float* narrow_block(float* to, int paired, F value) {
    for (int lane = 0; lane < 32; ++lane)
      for (int j = 0; j < paired; ++j, ++to) {
        uint16_t both[2];
        for (int i = 0; i < 2; ++i) {
          const float x = value(lane / 4, 8 * j + 2 * (lane % 4) + i);
          both[i] = precision == SM_CUDA_FP16 ? half_bits(x) : bf16_bits(x);
        }
        memcpy(to, both, 4);
      }
    return to;
  }

  template <class F>
  float* wide_block(float* to, F value) {
    if (precision == SM_CUDA_TF32) {
      for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 2; ++i) *to++ = tf32_value(value(lane / 4, 2 * (lane % 4) + i));
    } else {
      for (int t = 0; t < 4; ++t)
        for (int in = 0; in < 8; ++in)
          for (int i = 0; i < 2; ++i) *to++ = value(2 * t + i, in);
    }
    return to;
  }

  // w: [outputs, dim] or [outputs, dim, 3, 3].
  Dense layer(const float* w, const float* bias, int outputs, int tiles, int dim, int taps = 1) {
    return dense(taps, channels, tiles, bias, outputs, [=](int tap, int out, int in) {
      return out < outputs && in < dim ? w[((size_t)out * dim + in) * taps + tap] : 0.0f;
    });
  }

  FfnParams ffn(const sm_ffn_weights& w, int dim) {
    FfnParams p = {};
    p.g = layer(w.g.weight, w.g.bias, dim, channels / 8, dim);
    p.a = layer(w.a.weight, w.a.bias, dim, channels / 8, dim);
    p.out_weight = layer(w.out.weight, w.out.bias, dim, channels / 8, dim);
    p.gate = depthwise(w.gate.weight, w.gate.bias, dim, 9);
    return p;
  }

  Network::Group group(const sm_group_weights& w, const sm_network& net, const Network& to,
                       const int* rank_of) {
    const int c = net.dim, tiles = channels / 8, padded = to.ranks;
    int ranks = 0;
    for (int e = 0; e < net.num_experts; ++e) ranks += net.ranks[e];
    Network::Group g = {};
    RmeParams& r = g.rme;
    r.experts = net.num_experts;
    r.norm = {copy(w.rme.norm.weight, c, channels), copy(w.rme.norm.bias, c, channels)};
    r.conv = layer(w.rme.conv.weight, w.rme.conv.bias, c, tiles, c, 9);
    r.to_x = layer(w.rme.to_x.weight, w.rme.to_x.bias, c, tiles, c);
    r.to_k = layer(w.rme.to_k.weight, w.rme.to_k.bias, c, tiles, c);
    r.proj = layer(w.rme.proj.weight, w.rme.proj.bias, c, tiles, c);
    r.expert_b = layer(w.rme.mixture.b.weight, w.rme.mixture.b.bias, ranks, padded / 8, c);
    r.expert_c = layer(w.rme.mixture.c.weight, w.rme.mixture.c.bias, ranks, padded / 8, c);
    r.stripe_h = depthwise(w.rme.stripes.h.weight, w.rme.stripes.h.bias, c, 3);
    r.stripe_v = depthwise(w.rme.stripes.v.weight, w.rme.stripes.v.bias, c, 3);
    r.aggregate = depthwise(w.rme.calibrate.aggregate.weight, w.rme.calibrate.aggregate.bias, c, 16);
    r.router = rows(w.rme.mixture.router, net.num_experts, c);

    g.rme_ffn = ffn(w.rme.ffn, c);
    MixParams& m = g.rme_ffn.mix;
    m.experts = net.num_experts;
    m.topk = net.topk;
    m.ranks = padded;
    m.rank_of = rank_of;
    m.bias_out = rows(w.rme.mixture.out.bias, net.num_experts, c);
    m.aggregate = r.aggregate;
    m.low_conv = depthwise(w.rme.calibrate.conv.weight, w.rme.calibrate.conv.bias, c, 9);
    m.low_proj = transposed(w.rme.calibrate.proj.weight, ranks, c, padded, channels);
    m.low_proj_bias = copy(w.rme.calibrate.proj.bias, ranks, padded);
    const float* out = w.rme.mixture.out.weight;
    m.expert_out = dense(padded / 16, 16, tiles, nullptr, 0, [=](int part, int output, int input) {
      const int rank = 16 * part + input;
      return output < c && rank < ranks ? out[(size_t)output * ranks + rank] : 0.0f;
    });

    g.sme.kernel = net.kernel;
    g.sme.to_q = layer(w.sme.to_q.weight, w.sme.to_q.bias, c, tiles, c);
    g.sme.to_v = layer(w.sme.to_v.weight, w.sme.to_v.bias, c, tiles, c);
    g.sme.proj = layer(w.sme.proj.weight, w.sme.proj.bias, c, tiles, c);
    g.sme.stripe_h = depthwise(w.sme.stripes.h.weight, w.sme.stripes.h.bias, c, net.kernel);
    g.sme.stripe_v = depthwise(w.sme.stripes.v.weight, w.sme.stripes.v.bias, c, net.kernel);
    g.sme_ffn = ffn(w.sme.ffn, c);
    return g;
  }

  // [n, dim] with each row padded to CP.
  const float* rows(const float* values, int n, int dim) {
    const float* device;
    if (float* here = room((size_t)n * channels, &device))
      for (int i = 0; i < n; ++i)
        for (int c = 0; c < channels; ++c) here[i * channels + c] = c < dim ? values[i * dim + c] : 0.0f;
    return device;
  }
};

}  // namespace

size_t pack(const sm_network& net, sm_cuda_precision precision, int width, bool wide, unsigned char* memory,
            unsigned char* address, Network* out) {
  Packer packer{precision, 8 * width, memory, address};
  Network& to = *out;
  to = {};
  to.scale = net.scale;
  to.in_chans = net.in_chans;
  to.experts = net.num_experts;
  to.topk = net.topk;
  to.recursive = net.recursive;
  to.kernel = net.kernel;
  to.dim = net.dim;
  to.width = width;
  to.wide = wide;
  std::vector<int> rank_of;
  for (int e = 0; e < net.num_experts; ++e) rank_of.insert(rank_of.end(), net.ranks[e], e);
  to.ranks = round_up((int)rank_of.size(), 16);
  rank_of.resize(to.ranks, -1);
  const int* device_rank_of;
  if (int* here = packer.room(to.ranks, &device_rank_of))
    memcpy(here, rank_of.data(), to.ranks * sizeof(int));

  HeadParams& head = to.head;
  head.in_chans = net.in_chans;
  head.channels = 8 * width;
  head.range = net.img_range;
  head.mean = packer.copy(net.ends.mean, net.in_chans, net.in_chans);
  head.weight =
      packer.transposed(net.ends.head.weight, net.dim, 9 * net.in_chans, 8 * width, 9 * net.in_chans);
  head.bias = packer.copy(net.ends.head.bias, net.dim, 8 * width);
  for (int i = 0; i < net.num_layers; ++i)
    to.groups.push_back(packer.group(net.groups[i], net, to, device_rank_of));
  to.conv.norm = {packer.copy(net.ends.norm.weight, net.dim, 8 * width),
                  packer.copy(net.ends.norm.bias, net.dim, 8 * width)};
  to.conv.conv = packer.layer(net.ends.conv_2.weight, net.ends.conv_2.bias, net.dim, width, net.dim, 9);
  const int outputs = net.in_chans * net.scale * net.scale;
  to.upsample.in_chans = net.in_chans;
  to.upsample.scale = net.scale;
  to.upsample.channels = 8 * width;
  to.upsample.range = net.img_range;
  to.upsample.mean = head.mean;
  to.upsample.conv = packer.layer(net.ends.upsampler.weight, net.ends.upsampler.bias, outputs,
                                  round_up(outputs, 16) / 8, net.dim, 9);
  return packer.used;
}

}  // namespace cuda
}  // namespace seemore
