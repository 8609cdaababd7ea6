// How an image, or a tile of one, is cut up among threads and strips, and what memory that takes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/engine/model.h"
#include "seemore.h"

namespace seemore {
namespace engine {

// Rows beyond its own that a thread reads in a pass, at most: a 3x3 convolution's in groups of rows, or half
// a stripe.
constexpr int kConvReach = 5;
constexpr int reach_of(int kernel) { return kernel / 2 > kConvReach ? kernel / 2 : kConvReach; }

// Columns that a strip reads of the one to its left, in whole vectors, at most.
constexpr int halo_columns(int kernel) { return round_up(kernel / 2 > 2 ? kernel / 2 : 2, kColumnAlign); }

// Columns of one of the router's partial sums.  Strips are whole multiples, so that how wide they are does
// not change the order of sums.
constexpr int kSumColumns = 64;
constexpr int sum_blocks(int columns) { return (columns + kSumColumns - 1) / kSumColumns; }

// What is computed: an image, or a crop of one, of which the inner part is wanted.
struct Area {
  int h, w;
  int y0, y1, x0, x1;  // the inner part; y0 and x0 are multiples of 4
  int top, left;       // where the crop begins in the image
  int full_h, full_w;  // size of the image
};

// How an area is cut up; every size in floats.
struct Plan {
  Area area;
  int padded_w;  // columns of a stored row
  int threads;
  int strip;                                       // columns of a strip
  int low_h[kMaxRecursive], low_w[kMaxRecursive];  // size after each aggregation: the first of the area, the
                                                   // others of its inner part
  int map_h, map_w;                                // size of the image's map
  size_t plane, ranks;                             // x; b or c
  size_t columns, border;  // copies of what a pass overwrites (planes.h): all strips', one thread's
  size_t low[kMaxRecursive], map;
  size_t sums;
  size_t scratch;    // of one thread
  size_t workspace;  // b, c, low, sums, columns, borders
};

struct EngineTable;

// Checked parameters as a plan, and the table of the instruction set that shall run it.
sm_status plan_for(const sm_forward_params& params, Plan& plan, const EngineTable*& table);
sm_status plan_for(const sm_tile_params& params, Plan& plan, const EngineTable*& table);

// Floats of workspace: of a forward, and of a phase of a tile, whose stream and maps are the caller's.
size_t forward_floats(const Plan& plan);
size_t tile_floats(const Plan& plan);

}  // namespace engine
}  // namespace seemore
