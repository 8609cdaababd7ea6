// The whole network with its gradients: each image goes through all of it in one thread's memory, so that
// threads meet only at the end.  The layers' products take operands in fp32 or bf16, all else is in fp32.
//
// Forward keeps of an image, for each layer, RME's x, conv_out, y, routing weights and mean, then SME's x and
// y, as rows where no stencil reads them, one after the other; behind them the last layer's result and the
// sum with the skip.  Parts work on what is kept where it lies.
#pragma once

#include "cpu/ops/layer_norm2d.h"
#include "cpu/ops/matrices.h"
#include "cpu/ops/ops.h"
#include "cpu/ops/rme.h"
#include "cpu/ops/sme.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

using seemore::ops::NetworkCall;
using seemore::ops::NetworkLeaves;

// What stands before the layers and after them.  w: head, before the layers'; norm, conv_2 and upsampler,
// after them; each weight and bias.
struct Ends {
  static constexpr int kBefore = 2, kAfter = 6;
  const Geometry& g;
  const sm_network_op_params& t;
  int c, colours, outputs;
  Norm norm;
  Matrix head, back_head, conv_2, back_conv_2, up, back_up;
  Field image, normal, sum, pixels, grad, skip, dx, none;
  Row room;
  float* sums;

  Ends(Arena& arena, const Geometry& g_, const sm_network_op_params& t_, Weights before, Weights after)
      : g(g_),
        t(t_),
        c((int)t.op.c),
        colours((int)t.in_chans),
        outputs((int)(t.in_chans * t.scale * t.scale)),
        norm{after[0], after[1], t.op.eps, c} {
    head = pack_3x3(arena, c, colours, before[0], before[1]);
    back_head = pack_3x3_transposed(arena, c, colours, before[0]);
    conv_2 = pack_3x3(arena, c, c, after[2], after[3]);
    back_conv_2 = pack_3x3_transposed(arena, c, c, after[2]);
    up = pack_3x3(arena, outputs, c, after[4], after[5]);
    back_up = pack_3x3_transposed(arena, outputs, c, after[4]);
    arena.fields(g, c, normal, sum, grad, dx);
    image = arena.field(g, colours);
    pixels = arena.field(g, outputs);
    skip = arena.field(g, c);  // kept while the layers work
    none = arena.zeros(g);
    room = arena.row(g, outputs);
    sums = arena.floats(Norm::sums(c));
  }

  void read(const float* planes) const {
    read_image(g, planes, colours, image);
    for (int r = 0; r < g.h; ++r) {
      each_in_row(g, colours, [&](int i, int at) SM_LAMBDA_INLINE {
        float* const to = image.at(i, r, at);
        store(to, (load(to) - t.mean[i]) * t.img_range);
      });
      zero_columns(image.row(r), colours, g.w, g.padded_w);
    }
  }

  // From the image that was read.
  void before(const Field& features) const {
    for (int r = 0; r < g.h; ++r) convolve_3x3(g, head, image, r, features.row(r));
  }

  void normalise(const Field& features) const {
    for (int r = 0; r < g.h; ++r) norm.forward(g, features, normal, r);
  }

  // Features of the last layer and the head's; `kept`: their sum behind conv_2.
  void after(const Field& features, const Field& first, const Field& kept, float* out) const {
    normalise(features);
    for (int r = 0; r < g.h; ++r) {
      convolve_3x3<Fp32, Epilogue::kResidual>(g, conv_2, normal, r, sum.row(r), first.row(r));
      zero_columns(sum.row(r), c, g.w, g.padded_w);
    }
    copy_rows(sum, kept);
    const float per_range = 1.0f / t.img_range;
    for (int r = 0; r < g.h; ++r) {
      convolve_3x3(g, up, sum, r, room);
      each_output(out, r, [&](int i, float* to, int64_t step) SM_LAMBDA_INLINE {
        const float *const from = room.at(i, 0), mean = t.mean[i / (int)(t.scale * t.scale)];
        for (int x = 0; x < g.w; ++x) to[x * step] = from[x] * per_range + mean;
      });
    }
  }

  // dout [in_chans, h * scale, w * scale]; `dfeatures`: of the last layer's; that of the head's is in `skip`.
  void backward_after(const float* dout, const Field& features, const Field& kept, const Field& dfeatures,
                      Gradients d) const {
    const float per_range = 1.0f / t.img_range;
    for (int r = 0; r < g.h; ++r)
      each_output(dout, r, [&](int i, const float* from, int64_t step) SM_LAMBDA_INLINE {
        float* const to = pixels.at(i, r, 0);
        for (int x = 0; x < g.w; ++x) to[x] = from[x * step] * per_range;
      });
    mask(g, pixels, outputs);
    copy_rows(kept, sum);
    gradient_3x3(g, pixels, outputs, sum, c, d[4]);
    bias_gradient(g, pixels, outputs, d[5]);
    for (int r = 0; r < g.h; ++r) convolve_3x3(g, back_up, pixels, r, skip.row(r));
    mask(g, skip, c);
    normalise(features);
    gradient_3x3(g, skip, c, normal, c, d[2]);
    bias_gradient(g, skip, c, d[3]);
    for (int r = 0; r < g.h; ++r) {
      convolve_3x3(g, back_conv_2, skip, r, grad.row(r));
      zero_columns(grad.row(r), c, g.w, g.padded_w);
      norm.backward(g, features, grad, none, dfeatures, sums, r);
    }
    norm.weight_gradients(sums, d[0], d[1]);
  }

  // After backward_after and read: dfeatures of the first layer's; `dimage` may be null.
  void backward_before(const Field& dfeatures, float* dimage, Gradients d) const {
    each_vector(g, c, [&](int i, int r, int at) SM_LAMBDA_INLINE {
      store(dx.at(i, r, at), load(dfeatures.at(i, r, at)) + load(skip.at(i, r, at)));
    });
    gradient_3x3(g, dx, c, image, colours, d[0]);
    bias_gradient(g, dx, c, d[1]);
    for (int r = 0; dimage && r < g.h; ++r) {
      convolve_3x3(g, back_head, dx, r, room);
      each_in_row(g, colours, [&](int i, int at) SM_LAMBDA_INLINE {
        store(room.at(i, at), load(room.at(i, at)) * t.img_range);
      });
      write_row(g, room, colours, dimage, r);
    }
  }

 private:
  void copy_rows(const Field& from, const Field& to) const {
    each_vector(g, round_up(c, 4), [&](int i, int r, int at) SM_LAMBDA_INLINE {
      store(to.at(i, r, at), load(from.at(i, r, at)));
    });
  }

  // f(channel, pixels of row r that it makes, distance between them).
  template <class T, class F>
  SM_INLINE void each_output(T* planes, int r, const F& f) const {
    const int64_t s = t.scale, width = g.w * s;
    for (int i = 0; i < outputs; ++i) {
      const int64_t plane = i / (s * s), row = r * s + i / s % s;
      f(i, planes + (plane * g.h * s + row) * width + i % s, s);
    }
  }
};

// Kinds of parts.
constexpr int kEnds = 0, kRmes = 1, kSmes = 2;
template <int kKind>
struct Part {};

template <class Operand>
struct Network {
  using OneRme = Rme<Operand>;
  using OneSme = Sme<Operand>;
  static constexpr int kRme = decltype(OneRme::sizes(sm_op_params()))::kCount,
                       kSme = decltype(OneSme::sizes(sm_op_params()))::kCount, kLayer = kRme + kSme;

  static void leaves(const sm_network_op_params& t, NetworkLeaves& found) {
    const int64_t c = t.op.c, outputs = t.in_chans * t.scale * t.scale;
    const auto rme = OneRme::sizes(t.op);
    const auto sme = OneSme::sizes(t.op);
    const auto before = sizes_of(9 * c * t.in_chans, c);
    const auto after = sizes_of(c, c, 9 * c * c, c, 9 * c * outputs, outputs);
    auto append = [&](const auto& sizes) {
      for (const int64_t floats : sizes.of) found.floats[found.count++] = floats;
    };
    append(before);
    for (int64_t i = 0; i < t.layers; ++i) append(rme), append(sme);
    append(after);
  }

  const NetworkCall& call;
  const sm_network_op_params& t;
  const sm_op_params& p;
  Geometry g;
  size_t fields = 0;                    // floats that parts have their fields in, all the same
  size_t room[3] = {}, packed[3] = {};  // of a part of each kind: what else it works on, its packed weights

  explicit Network(const NetworkCall& call_)
      : call(call_),
        t(call.params),
        p(t.op),
        g(p.h, p.w, OneSme::reach(p) > OneRme::reach(p) ? OneSme::reach(p) : OneRme::reach(p)) {
    each_part([&]<int kPart>(Part<kPart> part) {
      Arena images = {nullptr}, weights = {nullptr}, rest = {nullptr, &images, &weights};
      make(part, 0, rest, [](auto&) {});
      if (images.most > fields) fields = images.most;
      room[kPart] = rest.used;
      packed[kPart] = weights.used;
    });
  }

  template <class F>
  static void each_part(const F& f) {
    f(Part<kEnds>()), f(Part<kRmes>()), f(Part<kSmes>());
  }

  Weights layer(int64_t i) const { return call.weights + Ends::kBefore + i * kLayer; }

  // f(the part, of layer i where it is one's), its memory from the arena.
  template <int kPart, class F>
  void make(Part<kPart>, int64_t i, Arena& arena, const F& f) const {
    if constexpr (kPart == kEnds) {
      Ends ends(arena, g, t, call.weights, layer(t.layers));
      f(ends);
    } else if constexpr (kPart == kRmes) {
      OneRme rme(arena, g, p, layer(i));
      f(rme);
    } else {
      OneSme sme(arena, g, p, layer(i) + kRme);
      f(sme);
    }
  }

  size_t rooms() const { return fields + room[kEnds] + room[kRmes] + room[kSmes]; }
  size_t packs() const { return packed[kEnds] + t.layers * (packed[kRmes] + packed[kSmes]); }

  // The same with everyone's packed weights, in a thread's memory, which another made; or to make them.
  template <int kPart, class F>
  void with(Part<kPart> part, int64_t i, float* memory, float* weights, bool packs, bool clears,
            const F& f) const {
    float* rest = memory + fields;
    for (int before = 0; before < kPart; ++before) rest += room[before], weights += packed[before];
    if (kPart != kEnds) weights += i * (packed[kRmes] + packed[kSmes]);
    Arena images = {memory, nullptr, nullptr, clears}, from = {weights, nullptr, nullptr, packs};
    Arena arena = {rest, &images, &from, clears};
    make(part, i, arena, f);
  }
};

// One thread's way through the network.
template <class Operand>
struct NetworkThread {
  using Net = Network<Operand>;
  const Net& net;
  float *memory, *packs;
  Field chain[2];  // gradients of features

  NetworkThread(const Net& net_, float* memory_, float* packs_) : net(net_), memory(memory_), packs(packs_) {
    for (int i = 0; i < 2; ++i) chain[i] = rows(memory + net.rooms() + i * features());
    Net::each_part([&](auto part) { net.with(part, 0, memory, packs, false, true, [](auto&) {}); });
  }

  static size_t floats(const Net& net) {
    return net.rooms() + (net.p.grad ? 2 * rows_floats(net.g, (int)net.p.c) : 0);
  }

  int64_t features() const { return rows_floats(net.g, (int)net.p.c); }
  Field rows(const float* at) const { return rows_at(net.g, (int)net.p.c, at); }
  int64_t routed() const { return net.p.experts + net.p.c; }
  // What forward keeps of an RME and of a layer.
  int64_t kept_rme() const { return 3 * features() + round_up((int)routed(), 16); }
  int64_t kept_layer() const { return kept_rme() + 2 * features(); }

  // The place of image n in all_kept[layer], or behind the layers.
  template <class T>
  T* kept(T* const* all_kept, int64_t layer, int64_t n) const {
    return all_kept[layer] + n * (layer < net.t.layers ? kept_layer() : 2 * features());
  }

  // Of image n.
  void forward(int64_t n, const float* image, float* out, float* const* all_kept) const {
    const int64_t f = features(), layers = net.t.layers;
    float* const first = kept(all_kept, 0, n);
    ends([&](const Ends& ends) {
      ends.read(image);
      ends.before(rows(first));
    });
    for (int64_t i = 0; i < layers; ++i) {
      float *const x = kept(all_kept, i, n), *const y = x + kept_rme(), *const routing = x + 3 * f;
      for (float* unused = routing + routed(); unused < y; ++unused) *unused = 0.0f;
      rme(i, [&](Rme<Operand>& rme) {
        rme.forward(rows(x), rows(x + f), rows(x + 2 * f), routing, routing + net.p.experts, rows(y));
      });
      sme(i, [&](Sme<Operand>& sme) { sme.forward(rows(y), rows(y + f), rows(kept(all_kept, i + 1, n))); });
    }
    float* const last = kept(all_kept, layers, n);
    ends([&](const Ends& ends) { ends.after(rows(last), rows(first), rows(last + f), out); });
  }

  // To the vector of gradients; those of layers before `call.first`, and of the head without `call.head`, are
  // left out.
  void backward(int64_t n, const float* dout, const float* image, float* dimage, const float* const* all_kept,
                float* gradients) const {
    const int64_t f = features(), layers = net.t.layers, leaves = Net::kLayer;
    const int64_t* const offsets = net.call.offsets;
    auto all = [&](auto& d, int64_t first_leaf) {
      for (size_t i = 0; i < sizeof d / sizeof *d; ++i) d[i] = gradients + offsets[first_leaf + i];
    };
    const float* const last = kept(all_kept, layers, n);
    float* d_after[Ends::kAfter];
    all(d_after, Ends::kBefore + layers * leaves);
    ends([&](const Ends& ends) { ends.backward_after(dout, rows(last), rows(last + f), chain[0], d_after); });
    for (int64_t i = layers - 1; i >= net.call.first; --i) {
      const float *const x = kept(all_kept, i, n), *const y = x + kept_rme();
      sme(i, [&](Sme<Operand>& sme) {
        float* d[Net::kSme];
        all(d, Ends::kBefore + i * leaves + Net::kRme);
        sme.backward(chain[0], rows(y), rows(y + f), chain[1], d);
      });
      rme(i, [&](Rme<Operand>& rme) {
        float* d[Net::kRme];
        all(d, Ends::kBefore + i * leaves);
        rme.backward(chain[1], rows(x), rows(x + f), rows(x + 2 * f), x + 3 * f, chain[0], d);
      });
    }
    if (!net.call.head) return;
    float* d_before[Ends::kBefore];
    all(d_before, 0);
    ends([&](const Ends& ends) {
      ends.read(image);
      ends.backward_before(chain[0], dimage, d_before);
    });
  }

 private:
  template <class F>
  void ends(const F& f) const {
    net.with(Part<kEnds>(), 0, memory, packs, false, false, f);
  }
  template <class F>
  void rme(int64_t i, const F& f) const {
    net.with(Part<kRmes>(), i, memory, packs, false, false, f);
  }
  template <class F>
  void sme(int64_t i, const F& f) const {
    net.with(Part<kSmes>(), i, memory, packs, false, false, f);
  }
};

inline int network_threads(const NetworkCall& call) {
  return useful_threads(call.params.op.threads, call.params.op.n);
}

// Backward adds images' gradients in order.  So many lie apart that a thread hardly ever waits for a slower
// one.
inline int network_slots(const NetworkCall& call) {
  return call.params.op.grad ? (int)least(2 * network_threads(call), call.params.op.n) : 0;
}

template <class Operand>
int64_t network_memory_with(const NetworkCall& call) {
  const Network<Operand> net(call);
  const int64_t slots = network_slots(call);
  return net.packs() + network_threads(call) * NetworkThread<Operand>::floats(net) +
         slots * (call.floats + 16);
}

template <class Operand>
void run_network_with(const NetworkCall& call, float* memory) {
  const Network<Operand> net(call);
  struct Shared {
    const Network<Operand>& net;
    float *packs, *memory, *apart = nullptr;
    size_t each = 0;
    Turns turns = {1, nullptr};
    Tasks images = {};

    float* own(int thread) const { return memory + thread * each; }
    float* gradients(int64_t n) const {
      return n ? apart + n % turns.slots * net.call.floats : net.call.gradients;
    }
  } all = {net, memory, memory + net.packs()};
  const int threads = network_threads(call), slots = network_slots(call);
  if (!threads) {
    if (net.p.grad) memset(call.gradients, 0, sizeof(float) * call.floats);
    return;
  }
  all.each = NetworkThread<Operand>::floats(net);
  all.apart = all.own(threads);
  all.turns = {slots, reinterpret_cast<int64_t*>(all.apart + slots * call.floats)};
  for (int i = 0; i < slots; ++i) all.turns.ready[i] = 0;
  run_tasks(threads, 1 + net.t.layers, [&](int64_t task, int thread) {
    auto pack = [&](auto part, int64_t i) {
      net.with(part, i, all.own(thread), all.packs, true, false, [](auto&) {});
    };
    if (!task) return pack(Part<kEnds>(), 0);
    pack(Part<kRmes>(), task - 1);
    pack(Part<kSmes>(), task - 1);
  });
  all.images.tasks = net.p.n;
  parallel(
      threads,
      [](void* context, int thread, int) {
        Shared& s = *static_cast<Shared*>(context);
        const NetworkCall& call = s.net.call;
        const sm_op_params& p = s.net.p;
        const NetworkThread<Operand> own(s.net, s.own(thread), s.packs);
        const int64_t pixels = s.net.t.in_chans * p.h * p.w, larger = pixels * s.net.t.scale * s.net.t.scale;
        s.images.run([&](int64_t n) {
          const float* const image = p.inputs[0] + n * pixels;
          if (!p.grad) return own.forward(n, image, p.outputs[0] + n * larger, p.outputs + 1);
          s.turns.begin(n);
          float* const dimage = p.outputs[0] ? p.outputs[0] + n * pixels : nullptr;
          own.backward(n, p.grad + n * larger, image, dimage, p.saved, s.gradients(n));
          s.turns.done(n, [&](int64_t next) {
            const float* const gradients = s.gradients(next);
            for (int64_t i = 0; next && i < call.floats; ++i) call.gradients[i] += gradients[i];
          });
        });
      },
      &all);
}

// f(the operands that are asked for): bf16 where this instruction set multiplies such.
template <class F>
auto with_operands([[maybe_unused]] const NetworkCall& call, const F& f) {
#if defined(SM_HAS_BF16)
  if (call.params.bf16) return f(Bf16());
#endif
  return f(Fp32());
}

inline int64_t network_memory(const NetworkCall& call) {
  return with_operands(call, [&]<class Operand>(Operand) { return network_memory_with<Operand>(call); });
}

inline void run_network(const NetworkCall& call, float* memory) {
  with_operands(call, [&]<class Operand>(Operand) { run_network_with<Operand>(call, memory); });
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
