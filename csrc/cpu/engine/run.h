// One run of the engine over an image, or of a phase over a tile, as every ISA's run.cc takes it.
#pragma once

#include <stddef.h>

#include "cpu/engine/plan.h"
#include "seemore.h"

namespace seemore {

struct Barrier;

namespace engine {

struct Image {
  const void* input;  // of the area
  void* output;       // of its inner part
  bool u8;            // uint8 in 0..255 instead of float in 0..1, both ways
};

// The router's decision for one image.
struct Routing {
  int count;
  int expert[kMaxExperts];
  float weight[kMaxExperts];
};

struct Run {
  const Model* model;
  const Plan* plan;
  Image image;
  float* stream;  // [h][padded_dim][padded_w]: the residual stream
  float* map;     // of the image, padded_rank channels, laid out as LowMap (planes.h)
  float* workspace;
  float* scratch;
  sm_phase phase;     // of a tile: this phase; the rest is for it
  int group;          // pool, calibrate, group
  float* aggregated;  // of the image, padded_dim channels, laid out as LowMap: pool writes, calibrate reads
  double* sums;       // pool: [dim]
  Routing routing;    // group
  Barrier* barrier;
  int (*poll)(void* context);
  void* poll_context;
  int stop;  // set once poll asks for it; every thread then only passes the barriers
};

// What run.cc exports, for each ISA.
struct EngineTable {
  bool bf16;  // has the bf16 mode
  size_t (*scratch_floats)(const Model&, const Plan&);
  void (*forward)(Run& run, int thread, int threads);
  void (*tile)(Run& run, int thread, int threads);  // one phase
};

}  // namespace engine
}  // namespace seemore
