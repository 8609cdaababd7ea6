// What the operators of this folder have in common: how large their weights are, and how they run over a
// batch.
//
// An operator is a struct with
//   kImages                        how many of its inputs are images, which come first
//   sizes(p), saved(p)             floats of its weights, and per image of what its backward needs
//   reach(p)                       how far from a pixel its stencils read
//   backward(grad, saved, in, d)   of one image, in the fields that its constructor takes from an Arena
// and for the forward either forward_all(p), over the whole batch, or forward(in, out) of one image.
#pragma once

#include "cpu/isa/tasks.h"
#include "cpu/ops/field.h"
#include "seemore.h"

namespace seemore {
namespace SM_ISA {
namespace ops {

using Weights = const float* const*;  // in the order of the operator's inputs
using Gradients = float* const*;      // where theirs go

// How many floats each of N tensors has.
template <int N>
struct Sizes {
  static constexpr int kCount = N;
  int64_t of[N ? N : 1];
};

template <class... T>
constexpr Sizes<sizeof...(T)> sizes_of(T... floats) {
  return {{(int64_t)floats...}};
}

template <int... N>
constexpr Sizes<(N + ...)> join(const Sizes<N>&... parts) {
  Sizes<(N + ...)> all = {};
  int at = 0;
  auto append = [&](const int64_t* sizes, int count) {
    for (int i = 0; i < count; ++i) all.of[at++] = sizes[i];
  };
  (append(parts.of, N), ...);
  return all;
}

// Operators of one image that are a single part: forward(x, y), backward(x, dy, dx, d).
template <class Part>
struct PartOp : Part {
  static constexpr int kImages = 1;
  static auto saved(const sm_op_params&) { return sizes_of(); }

  int channels;
  Field x, y, dx;

  template <class... T>
  PartOp(Arena& arena, const Geometry& g, int c, T... rest) : Part(arena, g, c, rest...), channels(c) {
    arena.fields(g, c, x, y, dx);
  }
};

// Packed weights for all threads, of a type that takes its memory from an arena; test `memory` for null.
template <class T>
struct Packed {
  Scratch<float> memory;
  T weights;

  template <class... A>
  explicit Packed(A... of) : memory(floats(of...)) {
    Arena arena = {memory.data};
    if (memory.data) weights = T(arena, of...);
  }

 private:
  template <class... A>
  static size_t floats(A... of) {
    Arena measure = {nullptr};
    T(measure, of...);
    return measure.used;
  }
};

// A thread makes the operator once, then runs it over its images.  Gradients of weights are kept image by
// image and added in order: the threads have no say in the result.
template <class Op>
bool run(const sm_op_params& p) {
  if constexpr (requires { Op::forward_all(p); }) {
    if (!p.grad) return Op::forward_all(p);
  }
  using WeightSizes = decltype(Op::sizes(p));
  using SavedSizes = decltype(Op::saved(p));
  static constexpr int kImages = Op::kImages, kWeights = WeightSizes::kCount, kSaved = SavedSizes::kCount;
  struct Shared {
    const sm_op_params& p;
    Geometry g;
    WeightSizes weights;
    SavedSizes saved;
    int64_t image, total = 0;       // floats of an image, and of all weights
    size_t memory = 0, fields = 0;  // floats a thread needs, and of these for fields of images
    float *arenas = nullptr, *partial = nullptr;
    Tasks images = {};
  } all = {p, Geometry(p.h, p.w, Op::reach(p)), Op::sizes(p), Op::saved(p), p.c * p.h * p.w};
  all.images.tasks = p.n;
  for (const int64_t floats : all.weights.of) all.total += floats;
  Arena images = {nullptr}, measure = {nullptr, &images};
  Op(measure, all.g, p, p.inputs + kImages);
  all.fields = images.most;
  all.memory = images.most + measure.most;

  const int threads = useful_threads(p.threads, p.n);
  Scratch<float> arenas(threads * all.memory), partial(p.grad ? p.n * all.total : 0);
  if (!arenas.data || !partial.data) return false;
  all.arenas = arenas.data;
  all.partial = partial.data;
  if (p.n) {
    parallel(
        threads,
        [](void* context, int thread, int) {
          Shared& s = *static_cast<Shared*>(context);
          const sm_op_params& p = s.p;
          Arena images = {s.arenas + thread * s.memory}, arena = {images.base + s.fields, &images};
          Op op(arena, s.g, p, p.inputs + kImages);
          s.images.run([&](int64_t n) {
            const float* in[kImages];
            for (int i = 0; i < kImages; ++i) in[i] = p.inputs[i] + n * s.image;
            if constexpr (!requires { Op::forward_all(p); }) {
              if (!p.grad) {
                float* out[1 + kSaved] = {p.outputs[0] + n * s.image};
                for (int i = 0; i < kSaved; ++i) out[1 + i] = p.outputs[1 + i] + n * s.saved.of[i];
                op.forward(in, out);
                return;
              }
            }
            const float* saved[kSaved ? kSaved : 1] = {};
            for (int i = 0; i < kSaved; ++i) saved[i] = p.saved[i] + n * s.saved.of[i];
            float* d[kImages + kWeights];
            for (int i = 0; i < kImages; ++i) d[i] = p.outputs[i] ? p.outputs[i] + n * s.image : nullptr;
            float* at = s.partial + n * s.total;
            for (int i = 0; i < kWeights; at += s.weights.of[i++]) d[kImages + i] = at;
            op.backward(p.grad + n * s.image, saved, in, d);
          });
        },
        &all);
  }
  if (!p.grad) return true;
  const float* from = partial.data;
  for (int i = 0; i < kWeights; from += all.weights.of[i++]) {
    float* const to = p.outputs[kImages + i];
    if (!to) continue;
    for (int64_t j = 0; j < all.weights.of[i]; ++j) {
      double sum = 0;
      for (int64_t n = 0; n < p.n; ++n) sum += from[n * all.total + j];
      to[j] = (float)sum;
    }
  }
  return true;
}

}  // namespace ops
}  // namespace SM_ISA
}  // namespace seemore
