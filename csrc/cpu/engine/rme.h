// RME up to the pooling barrier.
#pragma once

#include "cpu/engine/worker.h"
#include "cpu/rows/depthwise.h"
#include "cpu/rows/gemm.h"
#include "cpu/rows/norm.h"
#include "cpu/rows/resize.h"
#include "cpu/rows/winograd.h"

namespace seemore {
namespace SM_ISA {
namespace engine {

// What one row and strip of the image gives.
struct RmeOutputs {
  Row yp, b;          // residual + P x + p; B x; null where only sums are asked for
  float* sums;        // [C] for each block of kSumColumns, of those of its columns of x in [x0, x1)
  size_t sums_pitch;  // between blocks
  int x0, x1;
};

template <class Op>
struct RmeStage {
  static constexpr int kHalo = 2;  // columns: the convolution, then the stripe
  using Conv = RowConv<Op>;
  const Group& group;
  const Strip& s;
  int dim, padded_dim, operands;  // channels, padded, and the units that an operand row keeps them in
  Row operand;                    // of one chunk
  Row normal[Conv::kInputs], scratch[Conv::kProducts], t[Conv::kRows], x, horizontal[3], k[4];

  RmeStage(Arena& arena, const Group& group_, const Strip& s_, const Model& m)
      : group(group_), s(s_), dim(m.dim), padded_dim(m.padded_dim), operands(padded_dim / Op::kPack) {
    operand = arena.chunk(operands);
    arena.rows(normal, padded_dim, s);
    for (Row& row : scratch) row = arena.row(operands, Conv::kWidth);
    arena.rows(t, operands, s);
    x = arena.row(operands, s);
    arena.rows(horizontal, operands, s);
    arena.rows(k, operands, s);
  }

  // Row r into the ring of normalised rows; outside the image where in is null.
  void feed(int r, const InputRow* in) {
    const Row& n = normal[slot(r, Conv::kInputs)];
    if (!in) return zero_row(n, padded_dim, s, 1);
    layer_norm<Fp32>(in->left, n, dim, padded_dim, group.norm_weight, group.norm_bias, s.e0, s.x0);
    layer_norm<Fp32>(in->row, n, dim, padded_dim, group.norm_weight, group.norm_bias, s.x0, s.e1);
    s.mask(n, padded_dim, 1);
  }

  // The group of rows from r of GELU(conv), once rows up to r + Conv::kRows were fed.  ahead(from, to): as in
  // winograd.h.
  template <class F>
  void convolve(int r, F ahead) {
    Row in[Conv::kInputs];
    for (int i = 0; i < Conv::kInputs; ++i) in[i] = normal[slot(r - 1 + i, Conv::kInputs)];
    Conv::template run<Epilogue::kGeluOperand>(group.conv, in, scratch, padded_dim, s.e0, s.e1, t, t, ahead);
  }

  // x half of row r up to its horizontal stripe, for the results of rows r - 1 .. r + 1.
  void x_half(int r, bool inside) {
    const Row& hr = horizontal[slot(r, 3)];
    if (!inside) return zero_row(hr, operands, s, 0);
    matmul<Op, Epilogue::kOperand>(group.to_x, one_tap(t[slot(r, Conv::kRows)]), s.e0, s.e1, x);
    s.mask(x, operands, 1);
    stripe_row<Op>(group.stripe_h, x, hr, padded_dim, s.x0, s.x1);
  }

  // k half of row r, and C k.
  void k_half(int r, const Row& c_out) {
    const Row& kr = k[r & 3];
    each_chunk(s.x0, s.x1, [&](int from, int to) SM_LAMBDA_INLINE {
      matmul<Op, Epilogue::kOperand>(group.to_k, one_tap(t[slot(r, Conv::kRows)]), from, to, kr);
      matmul<Op, Epilogue::kStore>(group.expert_c, one_tap(kr), from, to, c_out);
    });
  }

  // k half of row r alone.
  void k_row(int r) {
    matmul<Op, Epilogue::kOperand>(group.to_k, one_tap(t[slot(r, Conv::kRows)]), s.x0, s.x1, k[r & 3]);
  }

  // A row of the aggregated map from the last four rows of k.
  void aggregate(const Row& low, int low_w) {
    const int x1 = s.x1 / 4 < low_w ? s.x1 / 4 : low_w;
    aggregate_row<Op>(group.aggregate, k, low, padded_dim, s.x0 / 4, x1);
  }

  // Results of row r, once x_half was called up to r + 1.
  void finish(int r, const Row& residual, const RmeOutputs& out) {
    const Row in[3] = {horizontal[slot(r - 1, 3)], horizontal[slot(r, 3)], horizontal[slot(r + 1, 3)]};
    static_assert(kSumColumns == kChunk);
    each_chunk(s.x0, s.x1, [&](int from, int to) SM_LAMBDA_INLINE {
      float* const sums = out.sums + from / kSumColumns * out.sums_pitch;
      const Row mixed = operand.window(from);
      for (int c = 0; c < padded_dim; c += 2) {
        vf sum[2] = {};
        each_column(from, to, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
          vf value[2][N];
          stripe_column<Op>(group.stripe_v, in, value, c, x);
          SM_UNROLL(2)
          for (int i = 0; i < 2; ++i)
            for (int n = 0; n < N; ++n) {
              value[i][n] = gelu(value[i][n]);
              const int from = out.x0 - x - n * VL, to = out.x1 - x - n * VL;
              sum[i] += from <= 0 && to >= VL ? value[i][n] : keep_range(value[i][n], from, to);
            }
          for (int n = 0; n < N; ++n) Op::put(mixed, c, x + n * VL, value[0][n], value[1][n]);
        });
        for (int i = 0; i < 2; ++i) sums[c + i] = horizontal_sum(sum[i]);
      }
      if (!out.yp.p) return;
      matmul<Op, Epilogue::kResidual>(group.proj, one_tap(mixed), from, to, out.yp, residual);
      matmul<Op, Epilogue::kStore>(group.expert_b, one_tap(mixed), from, to, out.b);
    });
  }
};

// What follows the convolution in row r of strip i.
template <class Op>
void rme_row(Worker& w, RmeStage<Op>& stage, int r, Band rows, int i, bool sums_only) {
  if (r >= rows.r0 - 1) stage.x_half(r, w.inside(r));
  if (r >= rows.r0 && r < rows.r1) {
    if (sums_only)
      stage.k_row(r);
    else
      stage.k_half(r, w.c.row(r));
    if ((r & 3) == 3) {
      stage.aggregate(w.low[0].row(r / 4), w.low[0].w);
      if (i + 1 == strips(w.plan)) finish_low_row(w.low[0], r / 4);
    }
  } else if (r < rows.r0 && (rows.r0 & 3) == 2) {
    // Four rows make one of the aggregated map; the thread of the last has them all: a band that starts
    // amid four begins with the two before it.
    stage.k_row(r);
  }
  const int q = r - 1;
  if (q < rows.r0 || q >= rows.r1) return;
  const size_t all_rows = (size_t)w.area.h * w.m.padded_dim;
  RmeOutputs results = {{}, {}, w.sums + (size_t)q * w.m.padded_dim, all_rows, w.area.x0, w.area.x1};
  if (!sums_only) results.yp = w.x.row(q), results.b = w.b.row(q);
  stage.finish(q, w.x.row(q), results);
}

// The first half, up to the barrier, or its sums and aggregation only.  `range` begins with an even row.
template <class Op>
void rme_pass(Worker& w, const Group& group, Band range, bool sums_only) {
  const Band rows = w.band(range, 2);
  // Where nothing is written, nothing needs to be kept.
  const StreamInput stream =
      sums_only ? StreamInput{w.x, {0, 0}, w.x, w.x, {w.x, w.x}, 0} : w.stream_input(rows);
  if (rows.r0 >= rows.r1) return;
  for (int i = 0; i < strips(w.plan); ++i) {
    const Strip s = strip_at(w.plan, i, RmeStage<Op>::kHalo);
    Arena arena = {w.scratch, 0};
    RmeStage<Op> stage(arena, group, s, w.m);
    constexpr int kRows = RowConv<Op>::kRows;
    static_assert(kRows + 1 <= kConvReach);
    const int first = rows.r0 > 0 ? (rows.r0 - 1) / kRows * kRows : 0;
    int next = first - 1;
    if (rows.r0 == 0) stage.x_half(-1, false);
    for (int base = first; base <= rows.r1 && !w.stopped(); base += kRows) {
      for (; next <= base + kRows; ++next) {
        if (!w.inside(next)) {
          stage.feed(next, nullptr);
          continue;
        }
        const InputRow row = stream.take(next, i, s);
        stage.feed(next, &row);
      }
      if (w.inside(base))
        stage.convolve(base, [&](int from, int to) {
          for (int r = next; r < next + kRows && r < w.area.h; ++r)
            fetch_columns(w.x.row(r), 0, w.m.padded_dim, from, to);
        });
      for (int r = base; r < base + kRows && r <= rows.r1; ++r) rme_row(w, stage, r, rows, i, sums_only);
    }
  }
}

template <class Op>
size_t rme_scratch(const Model& m, const Plan& plan) {
  const Strip s = strip_at(plan, 0, RmeStage<Op>::kHalo);
  Arena arena = {};
  RmeStage<Op> stage(arena, m.groups[0], s, m);
  return arena.used;
}

}  // namespace engine
}  // namespace SM_ISA
}  // namespace seemore
