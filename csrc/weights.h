// The weights of a network's parts (seemore.h) one after the other, in the order and with the sizes that
// seemore_fast/network/fold.py gives them: each(part, sizes, f) calls f(pointer, floats).
#pragma once

#include <cstddef>

#include "seemore.h"

namespace seemore {

// What the letters of seemore.h's shapes stand for.
struct WeightSizes {
  size_t channels, ranks = 0, experts, kernel, in_chans, outputs;

  explicit WeightSizes(const sm_network& net)
      : channels(net.dim),
        experts(net.num_experts),
        kernel(net.kernel),
        in_chans(net.in_chans),
        outputs((size_t)net.in_chans * net.scale * net.scale) {
    for (int e = 0; e < net.num_experts; ++e) ranks += net.ranks[e];
  }
};

template <class Part>
constexpr size_t kTensors = sizeof(Part) / sizeof(const float*);

template <class F>
void each(sm_layer& layer, size_t rows, size_t columns, F& f) {
  f(layer.weight, rows * columns);
  f(layer.bias, rows);
}

template <class F>
void each(sm_stripes_weights& w, size_t channels, size_t kernel, F& f) {
  each(w.h, channels, kernel, f);
  each(w.v, channels, kernel, f);
}

template <class F>
void each(sm_calibrate_weights& w, const WeightSizes& s, F& f) {
  each(w.aggregate, s.channels, 16, f);
  each(w.conv, s.channels, 9, f);
  each(w.proj, s.ranks, s.channels, f);
}

template <class F>
void each(sm_mixture_weights& w, const WeightSizes& s, F& f) {
  f(w.router, s.experts * s.channels);
  each(w.b, s.ranks, s.channels, f);
  each(w.c, s.ranks, s.channels, f);
  f(w.out.weight, s.channels * s.ranks);
  f(w.out.bias, s.experts * s.channels);
}

template <class F>
void each(sm_ffn_weights& w, const WeightSizes& s, F& f) {
  each(w.a, s.channels, s.channels, f);
  each(w.g, s.channels, s.channels, f);
  each(w.gate, s.channels, 9, f);
  each(w.out, s.channels, s.channels, f);
}

template <class F>
void each(sm_rme_weights& w, const WeightSizes& s, F& f) {
  each(w.norm, s.channels, 1, f);
  each(w.conv, s.channels, 9 * s.channels, f);
  each(w.to_x, s.channels, s.channels, f);
  each(w.to_k, s.channels, s.channels, f);
  each(w.stripes, s.channels, 3, f);
  each(w.calibrate, s, f);
  each(w.mixture, s, f);
  each(w.proj, s.channels, s.channels, f);
  each(w.ffn, s, f);
}

template <class F>
void each(sm_sme_weights& w, const WeightSizes& s, F& f) {
  each(w.to_q, s.channels, s.channels, f);
  each(w.to_v, s.channels, s.channels, f);
  each(w.stripes, s.channels, s.kernel, f);
  each(w.proj, s.channels, s.channels, f);
  each(w.ffn, s, f);
}

template <class F>
void each(sm_group_weights& w, const WeightSizes& s, F& f) {
  each(w.rme, s, f);
  each(w.sme, s, f);
}

template <class F>
void each(sm_ends_weights& w, const WeightSizes& s, F& f) {
  f(w.mean, s.in_chans);
  each(w.head, s.channels, 9 * s.in_chans, f);
  each(w.norm, s.channels, 1, f);
  each(w.conv_2, s.channels, 9 * s.channels, f);
  each(w.upsampler, s.outputs, 9 * s.channels, f);
}

}  // namespace seemore
