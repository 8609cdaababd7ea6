// What this library has to do with OpenMP, which others bring into the process: PyTorch does.
#pragma once

namespace seemore {

// Has OpenMP's idle threads end, those that worked for the calling thread, where they would otherwise share
// processors with `threads` of ours: they spin for milliseconds, in case their next work is near.  OpenMP
// starts new ones when it needs them, which takes some 50 us.
void end_idle_openmp_threads(int threads);

}  // namespace seemore
