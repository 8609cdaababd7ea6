// Packs folded weights: matrices in fragments (numeric.cuh), depthwise kernels with channels last.
#include "cuda/engine/pack.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "cuda/engine/formats.h"

namespace seemore {
namespace cuda {
namespace {

int round_up(int value, int to) { return (value + to - 1) / to * to; }

struct Packer {
  sm_cuda_precision precision;
  int channels;  // CP
  unsigned char *memory, *address;
  bool wide, rounds;
  size_t used = 0;

  bool narrow() const { return element_bytes(precision) == 2; }

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

  Depthwise depthwise(const sm_layer& w, int dim, int taps) {
    return {transposed(w.weight, dim, taps, channels, taps), copy(w.bias, dim, channels)};
  }

  // A matrix, or `taps` of them, of `inputs` (a multiple of 8) times 8 tiles: value(tap, output, input).
  template <class F>
  Dense dense(int taps, int inputs, int tiles, const float* bias, int outputs, F value) {
    const int chunks = inputs / 8, step = narrow() ? 2 : 1;
    const float* words;
    float* here = room((size_t)taps * chunks * tiles * (narrow() ? 32 : 64), &words);
    for (int tap = 0; here && tap < taps; ++tap)
      for (int chunk = 0; chunk < chunks; chunk += step)
        for (int tile = 0; tile < tiles; ++tile) {
          auto at = [&](int out, int in) { return value(tap, 8 * tile + out, 8 * chunk + in); };
          here =
              narrow() ? narrow_block(here, chunk + 1 < chunks ? 2 : 1, at) : wide_block(precision, here, at);
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

  float kept(float x) const { return kept_by(precision, x); }
  uint32_t pair(float low, float high) const { return pair_of(precision, low, high); }

  // Upper and lower half of a number, which a product with two ones adds up.
  uint32_t halves(float value) const {
    const float high = kept(value);
    return pair(value, std::isfinite(high) ? value - high : 0.0f);
  }

  // A bias beside such matrices. In 16 bit it is the weights of two inputs that are 1; of a layer that may
  // add up in float16, there pairs of channels, each twice.
  const float* matrix_bias(const float* values, int n, int padded, bool half_sums = false) {
    if (!narrow()) return copy(values, n, padded);
    const float* device;
    uint32_t* here = reinterpret_cast<uint32_t*>(room(padded, &device));
    auto at = [&](int i) { return i < n ? values[i] : 0.0f; };
    for (int i = 0; here && i < padded; ++i)
      here[i] = half_sums && precision == SM_CUDA_FP16 ? pair(at(i & ~1), at(i | 1)) : halves(at(i));
    return device;
  }

  // `parts` matrices of 8 kt inputs and 8 nt outputs, value(part, output, input), as Matrix of numeric.cuh
  // has them: of each part [vector][lane][4 words], a lane's words in the order of the products.
  template <class F>
  Dense matrix(int parts, int kt, int nt, F value) {
    const size_t size = matrix_words(kt, nt);
    const uint32_t* words;
    uint32_t* here = room(parts * size, &words);
    for (int part = 0; here && part < parts; ++part)
      write_matrix(here + part * size, kt, nt, [=](int out, int in) { return value(part, out, in); });
    return {words, nullptr, nt};
  }

  size_t matrix_words(int kt, int nt) const {
    const int per_tile = narrow() ? 1 : precision == SM_CUDA_TF32 ? 2 : 4;
    return (size_t)(per_tile * kt * nt + 3) / 4 * 32 * 4;
  }

  template <class F>
  void write_matrix(uint32_t* to, int kt, int nt, F value) {
    const size_t vectors = matrix_words(kt, nt) / 128;
    for (int lane = 0; lane < 32; ++lane) {
      size_t count = 0;
      auto put = [&](uint32_t word) {
        to[(count / 4 * 32 + lane) * 4 + count % 4] = word;
        ++count;
      };
      auto at = [&](int k, int n, int i) { return value(8 * n + lane / 4, 8 * k + 2 * (lane % 4) + i); };
      for (int k = 0; k < kt; k += narrow() ? 2 : 1)
        for (int n = 0; n < nt; ++n) {
          if (narrow()) {
            for (int j = k; j < k + 2 && j < kt; ++j) put(pair(at(j, n, 0), at(j, n, 1)));
            continue;
          }
          for (int i = 0; i < 2; ++i) put(std::bit_cast<uint32_t>(tf32_value(at(k, n, i))));
          if (precision == SM_CUDA_TF32) continue;
          for (int i = 0; i < 2; ++i)  // what the first two lack
            put(std::bit_cast<uint32_t>(tf32_value(at(k, n, i) - tf32_value(at(k, n, i)))));
        }
      while (count < 4 * vectors) put(0);
    }
  }

  // `passes` convolutions 3x3 of all channels to 8 nt outputs, value(pass, tap, output, input), as
  // convolve3x3() reads them. In 16 bit, of 16 channels of a column of taps one matrix, its three rows side
  // by side; where 8 channels are left, first of the third column, last of the others at once.
  template <class F>
  Dense columns3x3(int passes, int nt, F value) {
    const int kt = channels / 8;
    if (!narrow())
      return matrix(9 * passes, kt, nt,
                    [=](int part, int out, int in) { return value(part / 9, part % 9, out, in); });
    const size_t pair = matrix_words(2, 3 * nt), single = matrix_words(1, 3 * nt);
    const int odd = kt % 2;
    const uint32_t* words;
    uint32_t* here = room(passes * ((kt / 2 * 3 + odd) * pair + odd * single), &words);
    for (int pass = 0; here && pass < passes; ++pass) {
      auto write = [&](int inputs, int column, int first,
                       int step) {  // step: columns from 8 inputs to the next
        write_matrix(here, inputs, 3 * nt, [=](int out, int in) {
          const int tap = 3 * (out / (8 * nt)) + column + in / 8 * step;
          return value(pass, tap, out % (8 * nt), first + (step ? in % 8 : in));
        });
        here += inputs == 2 ? pair : single;
      };
      if (odd) write(1, 2, channels - 8, 0);
      for (int column = 0; column < 3; ++column)
        for (int first = 0; first + 16 <= channels; first += 16) write(2, column, first, 0);
      if (odd) write(2, 0, channels - 8, 1);
    }
    return {words, nullptr, nt};
  }

  // w: [outputs, dim] or [outputs, dim, 3, 3], for all channels.
  Dense fused(const sm_layer& w, int outputs, int nt, int dim, int taps = 1) {
    auto value = [=](int, int tap, int out, int in) {
      return out < outputs && in < dim ? w.weight[((size_t)out * dim + in) * taps + tap] : 0.0f;
    };
    Dense all = taps == 9
                    ? columns3x3(1, nt, value)
                    : matrix(1, channels / 8, nt, [=](int, int out, int in) { return value(0, 0, out, in); });
    all.bias = matrix_bias(w.bias, outputs, 8 * nt, true);
    return all;
  }

  // w: [ranks, dim], 16 rows to a matrix, so that a lane's outputs are four rows one after another.
  Dense expert_rows(const sm_layer& w, int ranks, int padded, int dim) {
    auto rank_of = [](int part, int out) { return 16 * part + out % 8 / 2 * 4 + out / 8 * 2 + out % 2; };
    Dense all = matrix(padded / 16, channels / 8, 2, [=](int part, int out, int in) {
      const int rank = rank_of(part, out);
      return rank < ranks && in < dim ? w.weight[(size_t)rank * dim + in] : 0.0f;
    });
    std::vector<float> bias(padded);
    for (int i = 0; i < padded; ++i) {
      const int rank = rank_of(i / 16, i % 16);
      bias[i] = rank < ranks ? w.bias[rank] : 0.0f;
    }
    all.bias = matrix_bias(bias.data(), padded, padded, true);
    all.tiles = padded / 8;
    return all;
  }

  // values: [experts, dim], four experts to a matrix: what the format keeps of a weight, and what it lacks.
  Dense router(const float* values, int experts, int dim) {
    const int parts = (experts + 3) / 4;
    Dense all = matrix(parts, channels / 8, 1, [=, this](int part, int out, int in) {
      const int expert = 4 * part + out / 2;
      if (expert >= experts || in >= dim) return 0.0f;
      const float value = values[(size_t)expert * dim + in], upper = kept(value);
      return out % 2 == 0 ? upper : std::isfinite(upper) ? value - upper : 0.0f;
    });
    all.tiles = parts;
    return all;
  }

  // The upsampler's convolution, in passes.
  Dense passes(const sm_network& net, int outputs) {
    const int pass = upsample_pass(net.scale, net.in_chans), count = round_up(outputs, 8 * pass) / (8 * pass);
    const int dim = net.dim;
    const float* w = net.ends.upsampler.weight;
    Dense all = columns3x3(count, pass, [=](int part, int tap, int out, int in) {
      const int output = part * 8 * pass + out;
      return output < outputs && in < dim ? w[((size_t)output * dim + in) * 9 + tap] : 0.0f;
    });
    all.bias = matrix_bias(net.ends.upsampler.bias, outputs, count * 8 * pass);
    all.tiles = count * pass;
    return all;
  }

  // The head's convolution: an input is a channel's neighbour of the pixel, 16 to a matrix. For bf16 in TF32
  // (head_product.cuh).
  const void* head_product(const sm_network& net) {
    const int inputs = 9 * net.in_chans, dim = net.dim;
    const float* w = net.ends.head.weight;
    const sm_cuda_precision of_network = precision;
    if (precision == SM_CUDA_BF16) precision = SM_CUDA_TF32;
    const Dense all = matrix((inputs + 15) / 16, 2, channels / 8, [=](int part, int out, int in) {
      const int input = 16 * part + in;
      return out < dim && input < inputs ? w[(size_t)out * inputs + input] : 0.0f;
    });
    precision = of_network;
    return all.weight;
  }

  // [dim, dim], of a layer behind LayerNorm. In 16 bit its rows add up to 0, so that a number which all
  // channels have in common makes no difference (normalise_but_for_mean).
  std::vector<float> without_mean(const sm_layer& w, int dim) const {
    std::vector<float> rows(w.weight, w.weight + (size_t)dim * dim);
    for (int out = 0; narrow() && out < dim; ++out) {
      float* row = rows.data() + (size_t)out * dim;
      const double mean = std::accumulate(row, row + dim, 0.0) / dim;
      for (int in = 0; in < dim; ++in) row[in] = (float)(row[in] - mean);
    }
    return rows;
  }

  // SME with its stripes as matrices (sme.cuh), 16 channels of q and v to a part.
  void pack_bands(const sm_sme_weights& w, int dim, SmeParams* p) {
    const int kt = channels / 8, parts = (channels + 15) / 16;
    auto of = [dim](const float* weight) {
      return [=](int out, int in) { return out < dim && in < dim ? weight[(size_t)out * dim + in] : 0.0f; };
    };
    const std::vector<float> q_rows = without_mean(w.to_q, dim), v_rows = without_mean(w.to_v, dim);
    auto q = of(q_rows.data()), v = of(v_rows.data()), proj = of(w.proj.weight);
    // A left operand: of 16 inputs the words are (upper channels, lower inputs), (lower, lower), (upper,
    // upper), (lower, upper), where matrix() would have the second and third change places.
    p->to_q = matrix(parts, kt, 2, [=](int part, int out, int in) {
      if (in / 16 < kt / 2 && (out / 8 != in / 8 % 2)) out ^= 8, in ^= 8;
      return q(16 * part + out, in);
    });
    p->to_v = matrix(parts, kt, 2, [=](int part, int out, int in) { return v(16 * part + out, in); });
    p->proj = matrix(parts, 2, kt, [=](int part, int out, int in) { return proj(out, 16 * part + in); });
    p->to_q.bias = matrix_bias(w.to_q.bias, dim, 16 * parts);
    p->to_v.bias = matrix_bias(w.to_v.bias, dim, 16 * parts, true);
    p->proj.bias = matrix_bias(w.proj.bias, dim, channels, true);
    p->bands_h = bands(w.stripes.h, dim, 16 * parts);
    p->bands_v = bands(w.stripes.v, dim, 16 * parts);
  }

  // w: [dim, 11]; of each channel blocks of the matrix that has tap `column - row` at (row, column), as left
  // operands: 1 and 2 right of the diagonal, the one that has the bias in columns 2 and 3, its upper and its
  // lower half as two numbers, and the diagonal.
  const void* bands(const sm_layer& w, int dim, int padded) {
    constexpr int kTaps = 11;
    const uint32_t* device;
    uint32_t* here = room((size_t)padded * 32 * 4, &device);
    for (int c = 0; here && c < padded; ++c)
      for (int lane = 0; lane < 32; ++lane) {
        auto block = [&](int number) {
          auto at = [&](int i) {
            const int tap = 8 * number + 2 * (lane % 4) + i - lane / 4;
            return c < dim && tap >= 0 && tap < kTaps ? w.weight[c * kTaps + tap] : 0.0f;
          };
          return pair(at(0), at(1));
        };
        *here++ = block(2);
        *here++ = block(1);
        *here++ = lane % 4 == 1 && c < dim ? halves(w.bias[c]) : 0;
        *here++ = block(0);
      }
    return device;
  }

  // `values` [rows, columns] -> [columns, CP], in the engine's format.
  const void* words(const float* values, int rows, int columns) {
    const uint32_t* device;
    uint32_t* here = room((size_t)channels * columns / (narrow() ? 2 : 1), &device);
    auto at = [&](int r, int c) { return r < rows ? values[(size_t)r * columns + c] : 0.0f; };
    for (int c = 0; here && c < columns; ++c)
      for (int r = 0; r < channels; r += narrow() ? 2 : 1)
        *here++ = narrow() ? pair(at(r, c), at(r + 1, c)) : std::bit_cast<uint32_t>(at(r, c));
    return device;
  }
  Taps taps(const sm_layer& w, int dim, int count) {
    return {words(w.weight, dim, count), words(w.bias, dim, 1)};
  }

  // A LayerNorm's affine part as `rme` reads it, in 16 bit [vector][lane % 4][4 words]: a lane's pairs of
  // channels, those of the scale before those of the shift.
  Taps affine(const sm_layer& w, int dim) {
    if (!narrow()) return taps(w, dim, 1);
    const int tiles = channels / 8, vectors = (2 * tiles + 3) / 4;
    const uint32_t* device;
    uint32_t* here = room((size_t)vectors * 16, &device);
    for (int i = 0; here && i < 16 * vectors; ++i) {
      const int word = i / 16 * 4 + i % 4, first = 8 * (word % tiles) + i / 4 % 4 * 2;
      const float* from = word < tiles ? w.weight : w.bias;
      auto at = [&](int c) { return word < 2 * tiles && c < dim ? from[c] : 0.0f; };
      here[i] = pair(at(first), at(first + 1));
    }
    return {device, nullptr};
  }

  // w: [outputs, dim] or [outputs, dim, 3, 3].
  Dense layer(const sm_layer& w, int outputs, int tiles, int dim, int taps = 1) {
    return dense(taps, channels, tiles, w.bias, outputs, [=](int tap, int out, int in) {
      return out < outputs && in < dim ? w.weight[((size_t)out * dim + in) * taps + tap] : 0.0f;
    });
  }

  // One or the other, of CP outputs.
  Dense product(const sm_layer& w, int outputs, int dim, int taps = 1) {
    const int tiles = channels / 8;
    return wide ? layer(w, outputs, tiles, dim, taps) : fused(w, outputs, tiles, dim, taps);
  }

  // A LayerNorm's affine part, in float32.
  Norm norm(const sm_layer& w, int dim) {
    return {copy(w.weight, dim, channels), copy(w.bias, dim, channels)};
  }

  FfnParams ffn(const sm_ffn_weights& w, int dim) {
    FfnParams p = {};
    auto first = [&](const sm_layer& layer) {
      if (wide) return product(layer, dim, dim);
      const std::vector<float> rows = without_mean(layer, dim);
      return product({rows.data(), layer.bias}, dim, dim);
    };
    p.g = first(w.g);
    p.a = first(w.a);
    p.out_weight = product(w.out, dim, dim);
    if (wide)
      p.wide_gate = depthwise(w.gate, dim, 9);
    else
      p.gate = taps(w.gate, dim, 9);
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
    const sm_mixture_weights& mixture = w.rme.mixture;
    const sm_calibrate_weights& calibrate = w.rme.calibrate;
    r.conv = product(w.rme.conv, c, c, 9);
    if (!wide) r.conv.bias = copy(w.rme.conv.bias, c, channels);  // see rme.cuh
    r.to_x = product(w.rme.to_x, c, c);
    r.to_k = product(w.rme.to_k, c, c);
    r.proj = product(w.rme.proj, c, c);
    if (wide) {
      r.expert_b = layer(mixture.b, ranks, padded / 8, c);
      r.expert_c = layer(mixture.c, ranks, padded / 8, c);
      r.wide_norm = norm(w.rme.norm, c);
      r.router = rows(mixture.router, net.num_experts, c);
      r.wide_stripe_h = depthwise(w.rme.stripes.h, c, 3);
      r.wide_stripe_v = depthwise(w.rme.stripes.v, c, 3);
    } else {
      r.expert_b = expert_rows(mixture.b, ranks, padded, c);
      r.expert_c = expert_rows(mixture.c, ranks, padded, c);
      r.norm = affine(w.rme.norm, c);
      r.stripe_h = taps(w.rme.stripes.h, c, 3);
      r.stripe_v = taps(w.rme.stripes.v, c, 3);
      r.aggregate = taps(calibrate.aggregate, c, 16);
      r.logits = router(mixture.router, net.num_experts, c);
    }
    g.rme_ffn = ffn(w.rme.ffn, c);
    MixParams& m = g.rme_ffn.mix;
    m.experts = net.num_experts;
    m.topk = net.topk;
    m.ranks = padded;
    m.rank_of = rank_of;
    m.bias_out = rows(mixture.out.bias, net.num_experts, c);
    m.aggregate = depthwise(calibrate.aggregate, c, 16);
    m.low_conv = depthwise(calibrate.conv, c, 9);
    m.low_proj = transposed(calibrate.proj.weight, ranks, c, padded, channels);
    m.low_proj_bias = copy(calibrate.proj.bias, ranks, padded);
    const float* out = mixture.out.weight;
    auto value = [=](int part, int output, int input) {
      const int rank = 16 * part + input;
      return output < c && rank < ranks ? out[(size_t)output * ranks + rank] : 0.0f;
    };
    m.expert_out =
        wide ? dense(padded / 16, 16, tiles, nullptr, 0, value) : matrix(padded / 16, 2, tiles, value);

    g.sme.kernel = net.kernel;
    if (!wide && !rounds && has_bands(net.kernel, narrow() ? 2 : 4)) {
      pack_bands(w.sme, c, &g.sme);
    } else {
      g.sme.to_q = layer(w.sme.to_q, c, tiles, c);
      g.sme.to_v = layer(w.sme.to_v, c, tiles, c);
      g.sme.proj = layer(w.sme.proj, c, tiles, c);
      g.sme.stripe_h = depthwise(w.sme.stripes.h, c, net.kernel);
      g.sme.stripe_v = depthwise(w.sme.stripes.v, c, net.kernel);
    }
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

size_t pack(const sm_network& net, sm_cuda_precision precision, int width, bool wide, bool rounds,
            unsigned char* memory, unsigned char* address, Network* out) {
  Packer packer{precision, 8 * width, memory, address, wide, rounds};
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
  const sm_ends_weights& ends = net.ends;
  head.mean = packer.copy(ends.mean, net.in_chans, net.in_chans);
  head.weight = packer.transposed(ends.head.weight, net.dim, 9 * net.in_chans, 8 * width, 9 * net.in_chans);
  head.bias = packer.copy(ends.head.bias, net.dim, 8 * width);
  if (!wide && net.in_chans <= kMostProductChannels) head.product = packer.head_product(net);
  for (int i = 0; i < net.num_layers; ++i)
    to.groups.push_back(packer.group(net.groups[i], net, to, device_rank_of));
  to.conv.norm = packer.norm(ends.norm, net.dim);
  to.conv.conv = packer.product(ends.conv_2, net.dim, net.dim, 9);
  const int outputs = net.in_chans * net.scale * net.scale;
  to.upsample.in_chans = net.in_chans;
  to.upsample.scale = net.scale;
  to.upsample.channels = 8 * width;
  to.upsample.range = net.img_range;
  to.upsample.mean = head.mean;
  to.upsample.conv = wide ? packer.layer(ends.upsampler, outputs, round_up(outputs, 16) / 8, net.dim, 9)
                          : packer.passes(net, outputs);
  return packer.used;
}

}  // namespace cuda
}  // namespace seemore
