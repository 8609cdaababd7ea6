// The differentiable operators, forward and backward, image by image; compiled once per ISA.
//
// Each operator is a struct, made once per thread, with forward() and backward() for one image.  Weights'
// gradients of each image are kept apart and then added in order: the threads have no say in the result.
#include "cpu/isa/dispatch.h"
#include "cpu/ops/blocks.h"

namespace seemore {
namespace SM_ISA {

// Floats of each weight, as `sizes` of the operators below list them.
struct Sizes {
  int64_t of[40];
  int count = 0;

  template <class... T>
  void add(T... sizes) {
    ((of[count++] = sizes), ...);
  }
  void norm(int64_t c) { add(c, c); }
  void stripes(int64_t c, int64_t k) { add(c * k, c, c * k, c); }
  void ffn(int64_t c) { add(2 * c * c, 2 * c, 9 * c, c, c * c, c); }
  void attention(int64_t c, int64_t k) {
    add(2 * c * c, 2 * c);
    stripes(c, k);
    add(c * c, c);
  }
  void calibrate(int64_t c) { add(16 * c, c, 9 * c, c, c * c, c); }
  void expert(int64_t c, int64_t rank) { add(rank * c, rank, rank * c, rank, rank * c); }
};

struct LayerNormOp {
  static constexpr int kImages = 1;
  static int64_t reach(const sm_op_params&) { return 0; }
  static void sizes(const sm_op_params& p, Sizes& s) { s.norm(p.c); }
  static void saved(const sm_op_params&, Sizes&) {}

  const Geometry& g;
  Norm norm;
  Field x, dy, dx, none;
  float* sums;

  LayerNormOp(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_), norm{w[0], w[1], p.eps, (int)p.c} {
    arena.fields(g, norm.channels, false, x, dy, dx, none);
    sums = arena.floats(2 * VL * norm.channels);
  }
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], norm.channels, x);
    norm.forward(g, x, dx);
    write_image(g, dx, norm.channels, out[0]);
  }
  void backward(const float* grad, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], norm.channels, x);
    read_image(g, grad, norm.channels, dy);
    norm.backward(g, x, dy, none, dx, sums, d[1], d[2]);
    if (d[0]) write_image(g, dx, norm.channels, d[0]);
  }
};

// Operators of one image that are a single part: forward(x, y), backward(x, dy, dx, d).
template <class Part>
struct PartOp : Part {
  static constexpr int kImages = 1;
  static void saved(const sm_op_params&, Sizes&) {}

  int channels;
  Field x, y, dx;

  template <class... T>
  PartOp(Arena& arena, const Geometry& g, int c, T... rest) : Part(arena, g, c, rest...), channels(c) {
    x = arena.field(g, c, true);
    y = arena.field(g, c, true);
    dx = arena.field(g, c);
  }
};

struct StripesOp : PartOp<Stripes> {
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static void sizes(const sm_op_params& p, Sizes& s) { s.stripes(p.c, p.kernel); }

  bool gelu_after;

  StripesOp(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w)
      : PartOp(arena, g, (int)p.c, (int)p.kernel, w), gelu_after(p.gelu) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Stripes::forward(x, y);
    if (gelu_after) apply_gelu(g, y, y, c);
    write_image(g, y, c, out[0]);
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    Stripes::forward(x, dx);
    read_image(g, grad_, c, y);
    if (gelu_after) gelu_backward(g, dx, y, c);
    Stripes::backward(x, y, dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

struct FfnOp : PartOp<Ffn> {
  static int64_t reach(const sm_op_params&) { return 1; }
  static void sizes(const sm_op_params& p, Sizes& s) { s.ffn(p.c); }

  FfnOp(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w) : PartOp(arena, g, (int)p.c, w) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Ffn::forward(x);
    apply_gelu(g, out_in, y, c);
    write_image(g, y, c, out[0]);
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    Ffn::forward(x);
    read_image(g, grad_, c, y);
    mask(g, y, c);
    Ffn::backward(x, y, dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

struct AttentionOp : PartOp<Attention> {
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static void sizes(const sm_op_params& p, Sizes& s) { s.attention(p.c, p.kernel); }

  AttentionOp(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w)
      : PartOp(arena, g, (int)p.c, (int)p.kernel, w) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Attention::forward(x);
    convolve(g, proj, product, dx);
    write_image(g, dx, c, out[0]);
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    Attention::forward(x);
    read_image(g, grad_, c, y);
    Attention::backward(x, y, dx, d + 1);
    if (d[0]) write_image(g, dx, c, d[0]);
  }
};

struct CalibrateOp : PartOp<Calibrate> {
  static int64_t reach(const sm_op_params&) { return 0; }
  static void sizes(const sm_op_params& p, Sizes& s) { s.calibrate(p.c); }

  CalibrateOp(Arena& arena, const Geometry& g, const sm_op_params& p, Weights w_)
      : PartOp(arena, g, (int)p.c, (int)p.recursive, w_) {}
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    Calibrate::forward(x, y);
    write_image(g, y, c, out[0]);
  }
  void backward(const float* grad_, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    Calibrate::forward(x, dx);
    read_image(g, grad_, c, y);
    mask(g, y, c);
    Calibrate::backward(y, y, d + 1);
    if (d[0]) write_image(g, y, c, d[0]);
  }
};

struct ExpertOp {
  static constexpr int kImages = 2;
  static int64_t reach(const sm_op_params&) { return 0; }
  static void sizes(const sm_op_params& p, Sizes& s) {
    s.expert(p.c, p.rank);
    s.add(p.c);
  }
  static void saved(const sm_op_params&, Sizes&) {}

  const Geometry& g;
  int c;
  Expert expert;
  Field x, k, dy, dx, dk;

  ExpertOp(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_), c((int)p.c), expert(arena, g_, c, (int)p.rank) {
    arena.fields(g, c, false, x, k, dy, dx, dk);
    const Arena packed = {arena.floats(Expert::packed(c, (int)p.rank))};
    if (packed.base) expert.set(packed, (int)p.rank, w);
  }
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    read_image(g, in[1], c, k);
    expert.forward<Epilogue::kStore>(x, k, dx);
    write_image(g, dx, c, out[0]);
  }
  void backward(const float* grad, const float* const*, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, in[1], c, k);
    read_image(g, grad, c, dy);
    expert.forward<Epilogue::kStore>(x, k, dx);
    expert.backward<Epilogue::kStore>(x, k, dy, dx, dk, d + 2);
    if (d[0]) write_image(g, dx, c, d[0]);
    if (d[1]) write_image(g, dk, c, d[1]);
  }
};

struct MixtureOp {
  static constexpr int kImages = 2;
  static int64_t reach(const sm_op_params&) { return 0; }
  static void sizes(const sm_op_params& p, Sizes& s) {
    s.add(p.experts * p.c);
    s.expert(p.c, Mixture::sum_ranks(p));
    s.add(p.experts * p.c);
  }
  static void saved(const sm_op_params& p, Sizes& s) { s.add(p.experts, p.c); }

  const Geometry& g;
  int c;
  Mixture mixture;
  Field x, k, dy, dx, dk;

  MixtureOp(Arena& arena, const Geometry& g_, const sm_op_params& p, Weights w)
      : g(g_), c((int)p.c), mixture(arena, g_, c, p, w) {
    arena.fields(g, c, false, x, k, dy, dx, dk);
  }
  void forward(const float* const* in, float* const* out) {
    read_image(g, in[0], c, x);
    read_image(g, in[1], c, k);
    mixture.route(x, out[1], out[2]);
    mixture.forward(x, k, out[1], dx);
    write_image(g, dx, c, out[0]);
  }
  void backward(const float* grad, const float* const* saved, const float* const* in, Gradients d) {
    read_image(g, in[0], c, x);
    read_image(g, in[1], c, k);
    read_image(g, grad, c, dy);
    mixture.forward(x, k, saved[0], dx);
    mixture.backward(x, k, saved[0], saved[1], dy, dx, dk, d + 2);
    if (d[0]) write_image(g, dx, c, d[0]);
    if (d[1]) write_image(g, dk, c, d[1]);
  }
};

struct SmeOp : Sme {
  static constexpr int kImages = 1;
  static int64_t reach(const sm_op_params& p) { return p.kernel / 2; }
  static void sizes(const sm_op_params& p, Sizes& s) {
    s.norm(p.c);
    s.attention(p.c, p.kernel);
    s.norm(p.c);
    s.ffn(p.c);
  }
  static void saved(const sm_op_params& p, Sizes& s) { s.add(p.c * p.h * p.w); }
  using Sme::Sme;
};

struct RmeOp : Rme {
  static constexpr int kImages = 1;
  static int64_t reach(const sm_op_params&) { return 1; }
  static void sizes(const sm_op_params& p, Sizes& s) {
    s.norm(p.c);
    s.add(9 * p.c * p.c, p.c, 2 * p.c * p.c, 2 * p.c);
    s.stripes(p.c, 3);
    s.calibrate(p.c);
    MixtureOp::sizes(p, s);
    s.add(p.c * p.c, p.c);
    s.norm(p.c);
    s.ffn(p.c);
  }
  static void saved(const sm_op_params& p, Sizes& s) {
    s.add(p.c * p.h * p.w, p.c * p.h * p.w, p.experts, p.c);
  }
  using Rme::Rme;
};

// Shares out the images.
template <class Op>
bool run(const sm_op_params& p) {
  struct Shared {
    const sm_op_params& p;
    Geometry g;
    Sizes weights, saved;
    int64_t image, total;  // floats of an image, and of all weights
    size_t memory;         // floats a thread needs
    float *arenas, *partial;
  } all = {p, Geometry(p.h, p.w, Op::reach(p)), {}, {}, p.c * p.h * p.w, 0, 0, nullptr, nullptr};
  Op::sizes(p, all.weights);
  Op::saved(p, all.saved);
  for (int i = 0; i < all.weights.count; ++i) all.total += all.weights.of[i];
  Arena measure = {nullptr};
  Op(measure, all.g, p, p.inputs + Op::kImages);
  all.memory = measure.used;

  const int threads = useful_threads(p.threads, p.n);
  Scratch<float> arenas(threads * all.memory), partial(p.grad ? p.n * all.total : 0);
  if (!arenas.data || !partial.data) return false;
  all.arenas = arenas.data;
  all.partial = partial.data;
  if (p.n) {
    parallel(
        threads,
        [](void* context, int thread, int count) {
          const Shared& s = *static_cast<const Shared*>(context);
          const sm_op_params& p = s.p;
          Arena arena = {s.arenas + thread * s.memory};
          memset(arena.base, 0, sizeof(float) * s.memory);
          Op op(arena, s.g, p, p.inputs + Op::kImages);
          const int64_t end = p.n * (thread + 1) / count;
          for (int64_t n = p.n * thread / count; n < end; ++n) {
            const float* in[Op::kImages];
            for (int i = 0; i < Op::kImages; ++i) in[i] = p.inputs[i] + n * s.image;
            if (!p.grad) {
              float* out[1 + 4] = {p.outputs[0] + n * s.image};
              for (int i = 0; i < s.saved.count; ++i) out[1 + i] = p.outputs[1 + i] + n * s.saved.of[i];
              op.forward(in, out);
              continue;
            }
            const float* saved[4] = {};
            for (int i = 0; i < s.saved.count; ++i) saved[i] = p.saved[i] + n * s.saved.of[i];
            float* d[Op::kImages + 40];
            for (int i = 0; i < Op::kImages; ++i) d[i] = p.outputs[i] ? p.outputs[i] + n * s.image : nullptr;
            float* at = s.partial + n * s.total;
            for (int i = 0; i < s.weights.count; at += s.weights.of[i++]) d[Op::kImages + i] = at;
            op.backward(p.grad + n * s.image, saved, in, d);
          }
        },
        &all);
  }
  if (!p.grad) return true;
  const float* from = partial.data;
  for (int i = 0; i < all.weights.count; from += all.weights.of[i++]) {
    float* const to = p.outputs[Op::kImages + i];
    if (!to) continue;
    for (int64_t j = 0; j < all.weights.of[i]; ++j) {
      float sum = 0;
      for (int64_t n = 0; n < p.n; ++n) sum += from[n * all.total + j];
      to[j] = sum;
    }
  }
  return true;
}

extern const TrainTable* train_table();

const TrainTable* train_table() {
  static const TrainTable table = {{
      {"calibrate", run<CalibrateOp>},
      {"gated_ffn", run<FfnOp>},
      {"layer_norm2d", run<LayerNormOp>},
      {"low_rank_experts", run<ExpertOp>},
      {"mix_experts", run<MixtureOp>},
      {"rme", run<RmeOp>},
      {"sme", run<SmeOp>},
      {"striped_attention", run<AttentionOp>},
      {"striped_conv2d", run<StripesOp>},
  }};
  return &table;
}

}  // namespace SM_ISA
}  // namespace seemore
