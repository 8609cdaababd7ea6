// One thread's view of a run: its bands of rows, the planes and maps, and the others to wait for.
#pragma once

#include "cpu/engine/planes.h"
#include "cpu/engine/run.h"
#include "cpu/isa/pool.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

// One thread's view of a run.
struct Worker {
  Run& run;
  const Model& m;
  const Plan& plan;
  const Area& area;
  int thread, threads;
  Plane x, b, c;
  Plane above, below, kept[2];  // copies of parts of x, see StreamInput
  LowMap low[kMaxRecursive], aggregated, map;
  float* sums;     // [blocks of kSumColumns][H][padded_dim]
  float* scratch;  // of this thread

  Worker(Run& run_, int thread_, int threads_)
      : run(run_),
        m(*run_.model),
        plan(*run_.plan),
        area(plan.area),
        thread(thread_),
        threads(threads_),
        scratch(run.scratch + plan.scratch * thread) {
    float* p = run.workspace;
    auto plane = [&](int channels, size_t size) {
      const Plane made = {p, channels, plan.padded_w};
      p += size;
      return made;
    };
    x = {run.stream, m.padded_dim, plan.padded_w};
    b = plane(m.padded_rank, plan.ranks);
    c = plane(m.padded_rank, plan.ranks);
    for (int i = 0; i < m.recursive; ++i) {
      low[i] = {p, m.padded_dim, plan.low_h[i], plan.low_w[i], low_pitch(plan.low_w[i])};
      p += plan.low[i];
    }
    sums = p;
    p += plan.sums;
    for (Plane& half : kept) {
      half = {p, m.padded_dim, halo_columns(m.kernel)};
      p += plan.columns / 2;
    }
    p += plan.border * thread;
    above = {p, m.padded_dim, plan.padded_w};
    below = {p + plan.border / 2, m.padded_dim, plan.padded_w};
    const int pitch = low_pitch(plan.map_w);
    aggregated = {run.aggregated, m.padded_dim, plan.map_h, plan.map_w, pitch};
    map = {run.map, m.padded_rank, plan.map_h, plan.map_w, pitch};
  }

  // This thread's share of `rows`, in whole multiples of `align` (so the shares never depend on more).
  Band band(Band rows, int align) const {
    const int64_t units = (rows.r1 - rows.r0 + align - 1) / align;
    const int from = rows.r0 + (int)(units * thread / threads) * align;
    const int to = rows.r0 + (int)(units * (thread + 1) / threads) * align;
    return {from, to < rows.r1 ? to : rows.r1};
  }

  // The inner part of the area, and `by` rows more on either side.
  Band inner(int by) const {
    return {area.y0 - by > 0 ? area.y0 - by : 0, area.y1 + by < area.h ? area.y1 + by : area.h};
  }

  bool inside(int r) const { return r >= 0 && r < area.h; }

  // Asks the caller whether to go on; only thread 0 asks.  True once the run is to stop.
  bool stopped() {
    if (thread == 0 && run.poll && !run.stop && run.poll(run.poll_context))
      __atomic_store_n(&run.stop, 1, __ATOMIC_RELAXED);
    return __atomic_load_n(&run.stop, __ATOMIC_RELAXED);
  }

  void wait() { run.barrier->wait(threads); }

  // The stream for a pass that overwrites `rows` of it.  With a barrier.
  StreamInput stream_input(Band rows) {
    const int reach = threads > 1 ? reach_of(m.kernel) : 0;
    const StreamInput stream = {x, rows, above, below, {kept[0], kept[1]}, reach};
    stream.copy_borders(area.h);
    wait();
    return stream;
  }
};

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
