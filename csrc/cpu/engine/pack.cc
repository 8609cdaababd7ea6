// Packs folded weights for the micro-kernels: blocks of rows, Winograd's points, pairs of bf16.
#include "cpu/engine/pack.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace seemore {
namespace engine {
namespace {

struct Packer {
  sm_engine& engine;

  float* allocate(size_t n) {
    engine.storage.emplace_back(n, 0.0f);
    return engine.storage.back().data();
  }

  const float* copy(const float* values, int n, int padded) {
    float* out = allocate(padded);
    std::copy(values, values + n, out);
    return out;
  }

  // weight(row, channel, tap) in double, for `m` rows of `k` channels.
  template <class F>
  Matrix matrix(int m, int k, int taps, const float* bias, bool bf16, F weight) {
    Matrix out;
    out.m = round_up(m, 4);
    out.k = bf16 ? (k + 1) / 2 : k;
    out.taps = taps;
    out.bias = copy(bias, m, out.m);
    float* packed = allocate((size_t)out.m * out.k * taps);
    out.weight = packed;
    auto value = [&](int row, int channel, int tap) {
      return row < m && channel < k ? (float)weight(row, channel, tap) : 0.0f;
    };
    for (int block = 0; block < out.m; block += kBlock) {
      const int rows = std::min(kBlock, out.m - block);
      for (int tap = 0; tap < taps; ++tap)
        for (int unit = 0; unit < out.k; ++unit)
          for (int row = block; row < block + rows; ++row, ++packed) {
            if (bf16) {
              const uint32_t pair =
                  to_bf16(value(row, 2 * unit, tap)) | to_bf16(value(row, 2 * unit + 1, tap)) << 16;
              memcpy(packed, &pair, 4);
            } else {
              *packed = value(row, unit, tap);
            }
          }
    }
    return out;
  }

  // A [m, k] matrix.
  Matrix dense(int m, int k, const sm_layer& w, bool bf16) {
    return matrix(m, k, 1, w.bias, bf16,
                  [&](int row, int channel, int) { return w.weight[(size_t)row * k + channel]; });
  }

  // A [m, k, 3, 3] convolution as its nine taps.
  Matrix conv(int m, int k, const sm_layer& w, bool bf16) {
    return matrix(m, k, 9, w.bias, bf16, [&](int row, int channel, int tap) {
      return w.weight[((size_t)row * k + channel) * 9 + tap];
    });
  }

  // The same for winograd.h: rows of the kernel evaluated at Winograd's points, each a product of three taps.
  Matrix row_conv(int m, int k, const sm_layer& w, bool bf16) {
    const double a = std::sqrt(0.5), b = std::sqrt(2.0);
    const double four[6][3] = {{1, 0, 0},
                               {-1 / 1.5, -a / 1.5, -0.5 / 1.5},
                               {-1 / 1.5, a / 1.5, -0.5 / 1.5},
                               {1 / 6.0, b / 6, 2 / 6.0},
                               {1 / 6.0, -b / 6, 2 / 6.0},
                               {0, 0, 1}};
    const double two[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
    const double (*points)[3] = bf16 ? two : four;
    return matrix(m, k, bf16 ? 12 : 18, w.bias, bf16, [&](int row, int channel, int tap) {
      const float* g = w.weight + ((size_t)row * k + channel) * 9 + tap % 3;
      const double* p = points[tap / 3];
      return p[0] * g[0] + p[1] * g[3] + p[2] * g[6];
    });
  }

  Depthwise depthwise(int channels, int padded, int taps, const sm_layer& w) {
    return {copy(w.weight, channels * taps, padded * taps), copy(w.bias, channels, padded), taps};
  }

  Ffn ffn(const sm_ffn_weights& w, int dim, int padded, bool bf16) {
    return {dense(dim, dim, w.a, bf16), dense(dim, dim, w.g, bf16), dense(dim, dim, w.out, bf16),
            depthwise(dim, padded, 9, w.gate)};
  }

  void rme(const sm_rme_weights& w, const Model& m, Group& g) {
    const int c = m.dim, p = m.padded_dim, r = m.rank_sum;
    const bool bf16 = m.bf16;
    g.norm_weight = copy(w.norm.weight, c, p);
    g.norm_bias = copy(w.norm.bias, c, p);
    g.conv = row_conv(c, c, w.conv, bf16);
    g.to_x = dense(c, c, w.to_x, bf16);
    g.to_k = dense(c, c, w.to_k, bf16);
    g.stripe_h = depthwise(c, p, 3, w.stripes.h);
    g.stripe_v = depthwise(c, p, 3, w.stripes.v);
    g.aggregate = depthwise(c, p, 16, w.calibrate.aggregate);
    g.low_conv = depthwise(c, p, 9, w.calibrate.conv);
    g.low_proj = dense(r, c, w.calibrate.proj, false);
    g.router = copy(w.mixture.router, m.num_experts * c, m.num_experts * c);
    g.expert_b = dense(r, c, w.mixture.b, bf16);
    g.expert_c = dense(r, c, w.mixture.c, bf16);
    const sm_layer& out = w.mixture.out;
    for (int e = 0; e < m.num_experts; ++e)
      g.expert_out[e] = matrix(c, m.rank[e], 1, out.bias + e * c, false, [&](int row, int channel, int) {
        return out.weight[row * r + m.rank_start[e] + channel];
      });
    g.proj = dense(c, c, w.proj, bf16);
    g.rme_ffn = ffn(w.ffn, c, p, bf16);
  }

  void sme(const sm_sme_weights& w, const Model& m, Group& g) {
    const int c = m.dim, p = m.padded_dim;
    g.to_q = dense(c, c, w.to_q, m.bf16);
    g.to_v = dense(c, c, w.to_v, m.bf16);
    g.sme_h = depthwise(c, p, m.kernel, w.stripes.h);
    g.sme_v = depthwise(c, p, m.kernel, w.stripes.v);
    g.sme_proj = dense(c, c, w.proj, m.bf16);
    g.sme_ffn = ffn(w.ffn, c, p, m.bf16);
  }
};

}  // namespace

void pack(const sm_network& net, bool bf16, sm_engine& engine) {
  Model& m = engine.model;
  m.scale = net.scale;
  m.in_chans = net.in_chans;
  m.num_experts = net.num_experts;
  m.num_layers = net.num_layers;
  m.dim = net.dim;
  m.kernel = net.kernel;
  m.recursive = net.recursive;
  m.topk = net.topk;
  m.img_range = net.img_range;
  m.bf16 = bf16;
  for (int e = 0; e < m.num_experts; ++e) {
    m.rank[e] = net.ranks[e];
    m.rank_start[e] = m.rank_sum;
    m.rank_sum += net.ranks[e];
  }
  m.padded_dim = round_up(m.dim, 4);
  m.padded_rank = round_up(m.rank_sum, 4);
  Packer pack{engine};
  const sm_ends_weights& ends = net.ends;
  m.mean = pack.copy(ends.mean, m.in_chans, m.in_chans);
  m.head = pack.conv(m.dim, m.in_chans, ends.head, false);
  engine.groups.resize(m.num_layers);
  for (int i = 0; i < m.num_layers; ++i) {
    pack.rme(net.groups[i].rme, m, engine.groups[i]);
    pack.sme(net.groups[i].sme, m, engine.groups[i]);
  }
  m.groups = engine.groups.data();
  m.norm_weight = pack.copy(ends.norm.weight, m.dim, m.padded_dim);
  m.norm_bias = pack.copy(ends.norm.bias, m.dim, m.padded_dim);
  m.conv_2 = pack.row_conv(m.dim, m.dim, ends.conv_2, false);
  m.upsampler = pack.row_conv(m.in_chans * m.scale * m.scale, m.dim, ends.upsampler, false);
}

}  // namespace engine
}  // namespace seemore
