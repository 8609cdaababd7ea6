// The engine's stages: each walks down a band of rows within a strip of columns and keeps the rows that
// its convolutions still need in rings (docs/cpu-engine.md has the picture).
//
// Template parameter Op: what matrix operands are stored as, Fp32 or Bf16 (gemm.h).
#pragma once

#include "layers.h"

namespace seemore {
namespace SM_ISA {

// Columns a stage computes: its results for [x0, x1), what their halo needs over [e0, e1).
struct Strip {
  int x0, x1, e0, e1;
  int w;    // columns of the image; those beyond are padding up to whole vectors
  int pad;  // columns that row buffers have on either side of [x0, x1)

  // The column of [x0, x1] nearest to x.
  SM_INLINE int inner(int x) const { return x < x0 ? x0 : x < x1 ? x : x1; }

  // Zeroes `halo` columns outside the image, if this strip reaches its edges.
  SM_INLINE void mask(const Row& row, int channels, int halo) const {
    if (e0 == 0) zero_columns(row, channels, -halo, 0);
    if (w < e1 + halo) zero_columns(row, channels, w, e1 + halo);
  }
};

// Hands out row buffers; with a null base it only counts.
struct Arena {
  float* base;
  size_t used;

  Row row(int channels, const Strip& s) {
    const int pitch = s.x1 - s.x0 + 2 * s.pad;
    const Row r = {base ? base + used + s.pad - s.x0 : nullptr, pitch};
    used += (size_t)channels * pitch;
    return r;
  }
  Row row(int channels, int columns) {
    const Row r = {base ? base + used : nullptr, columns};
    used += (size_t)channels * columns;
    return r;
  }
  Row chunk(int channels) { return row(channels, kChunk); }
  template <int N>
  void rows(Row (&out)[N], int channels, const Strip& s) {
    for (int i = 0; i < N; ++i) out[i] = row(channels, s);
  }
};

// A row that a stage reads: from column x0 of its strip on in `row`, before it in `left`.
struct InputRow {
  Row row, left;
};

// Calls f(row, from, to) for the chunks of [e0, e1), each in the one of the two that has it.
template <class F>
SM_INLINE void each_input_chunk(const Strip& s, const InputRow& in, F f) {
  for (int from = s.e0; from < s.e1;) {
    const bool left = from < s.x0;
    const int end = left ? s.x0 : s.e1, to = from + kChunk < end ? from + kChunk : end;
    f(left ? in.left : in.row, from, to);
    from = to;
  }
}

SM_INLINE void zero_row(const Row& row, int channels, const Strip& s, int halo) {
  zero_columns(row, channels, s.e0 - halo, s.e1 + halo);
}

constexpr int slot(int r, int depth) { return (r % depth + depth) % depth; }

// Channels c and c + 1 times those of an operand row.
template <class Op, int N>
SM_INLINE void multiply(vf (&values)[2][N], const Row& by, int c, int x) {
  for (int v = 0; v < N; ++v) {
    vf first, second;
    Op::get(by, c, x + v * VL, first, second);
    values[0][v] *= first;
    values[1][v] *= second;
  }
}

// ---- GatedFFN --------------------------------------------------------------------------------------------

template <class Op>
struct FfnStage {
  const Ffn& ffn;
  const Strip& s;
  int dim, padded_dim, operands;  // channels, padded, and the units that an operand row keeps them in
  Row operand;                    // of one chunk
  Row a[2], g[3];

  FfnStage(Arena& arena, const Ffn& ffn_, const Strip& s_, const Model& m)
      : ffn(ffn_), s(s_), dim(m.dim), padded_dim(m.padded_dim), operands(padded_dim / Op::kPack) {
    operand = arena.chunk(operands);
    arena.rows(a, operands, s);
    arena.rows(g, operands, s);
  }

  // Row r, which lies outside the image.
  void feed_outside(int r) { zero_row(g[slot(r, 3)], operands, s, 1); }

  // Row r of the input; make(from, to) is called before those columns of it are read.
  template <class F>
  void feed(int r, const InputRow& in, F make) {
    const Row& gr = g[slot(r, 3)];
    each_input_chunk(s, in, [&](const Row& source, int from, int to) SM_LAMBDA_INLINE {
      make(from, to);
      const Row normal = operand.window(from);
      layer_norm<Op>(source, normal, dim, padded_dim, nullptr, nullptr, from, to);
      matmul<Op, Epilogue::kGeluOperand>(ffn.g, one_tap(normal), from, to, gr);
      matmul<Op, Epilogue::kGeluOperand>(ffn.a, one_tap(normal), s.inner(from), s.inner(to), a[slot(r, 2)]);
    });
    s.mask(gr, operands, 1);
  }

  // Row r of the output, once rows up to r + 1 were fed: residual + ffn.
  void finish(int r, const Row& residual, const Row& out) {
    const Row in[3] = {g[slot(r - 1, 3)], g[slot(r, 3)], g[slot(r + 1, 3)]};
    const Row& ar = a[slot(r, 2)];
    each_chunk(s.x0, s.x1, [&](int from, int to) SM_LAMBDA_INLINE {
      const Row product = operand.window(from);
      put_row<Op>(product, padded_dim, from, to, [&]<int N>(vf(&acc)[2][N], int c, int x) SM_LAMBDA_INLINE {
        depthwise_3x3<Op>(ffn.gate, in, acc, c, x);
        multiply<Op>(acc, ar, c, x);
      });
      matmul<Op, Epilogue::kGeluResidual>(ffn.out, one_tap(product), from, to, out, residual);
    });
  }
};

// ---- SME: striped attention ------------------------------------------------------------------------------

constexpr int kMaxKernel = 255;

template <class Op>
struct SmeStage {
  const Group& group;
  const Strip& s;
  int dim, padded_dim, operands, half;
  Row operand[2], q;
  Row horizontal[kMaxKernel + 1];  // q after its 1xk stripe, k + 1 rows: results come in pairs of rows
  Row v[kMaxKernel / 2 + 2];

  SmeStage(Arena& arena, const Group& group_, const Strip& s_, const Model& m)
      : group(group_),
        s(s_),
        dim(m.dim),
        padded_dim(m.padded_dim),
        operands(padded_dim / Op::kPack),
        half(m.kernel / 2) {
    for (Row& row : operand) row = arena.chunk(operands);
    q = arena.row(operands, s);
    for (int i = 0; i < 2 * half + 2; ++i) horizontal[i] = arena.row(operands, s);
    for (int i = 0; i < half + 2; ++i) v[i] = arena.row(operands, s);
  }

  // Row r of the input; outside the image where in is null.  `inner`: this band needs its result, too.
  void feed(int r, const InputRow* in, bool inner) {
    const Row& hr = horizontal[slot(r, 2 * half + 2)];
    if (!in) return zero_row(hr, operands, s, 0);
    each_input_chunk(s, *in, [&](const Row& source, int from, int to) SM_LAMBDA_INLINE {
      const Row normal = operand[0].window(from);
      layer_norm<Op>(source, normal, dim, padded_dim, nullptr, nullptr, from, to);
      matmul<Op, Epilogue::kGeluOperand>(group.to_q, one_tap(normal), from, to, q);
      if (inner)
        matmul<Op, Epilogue::kGeluOperand>(group.to_v, one_tap(normal), s.inner(from), s.inner(to),
                                           v[slot(r, half + 2)]);
    });
    s.mask(q, operands, half);
    stripe_row<Op>(group.sme_h, q, hr, padded_dim, s.x0, s.x1);
  }

  // Rows r and r + 1 (the first `count` of them) of the stream, to which their results are added, once rows
  // up to r + count - 1 + half were fed.
  void finish(int r, int count, const Row stream[2]) {
    Row in[kMaxKernel + 1];
    for (int t = 0; t < 2 * half + 2; ++t) in[t] = horizontal[slot(r + t - half, 2 * half + 2)];
    const Row upper_v = v[slot(r, half + 2)], lower_v = v[slot(r + 1, half + 2)];
    each_chunk(s.x0, s.x1, [&](int from, int to) SM_LAMBDA_INLINE {
      const Row product[2] = {operand[0].window(from), operand[1].window(from)};
      for (int c = 0; c < padded_dim; c += 2)
        each_column(from, to, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
          vf upper[2][N], lower[2][N];
          stripe_column_pair<Op>(group.sme_v, in, upper, lower, c, x);
          multiply<Op>(upper, upper_v, c, x);
          multiply<Op>(lower, lower_v, c, x);
          for (int n = 0; n < N; ++n) {
            Op::put(product[0], c, x + n * VL, upper[0][n], upper[1][n]);
            Op::put(product[1], c, x + n * VL, lower[0][n], lower[1][n]);
          }
        });
      for (int i = 0; i < count; ++i)
        matmul<Op, Epilogue::kResidual>(group.sme_proj, one_tap(product[i]), from, to, stream[i], stream[i]);
    });
  }
};

// ---- RME up to the pooling barrier -----------------------------------------------------------------------

// What one row and strip of the image gives.
struct RmeOutputs {
  Row yp, b;    // residual + P x + p; B x; null where only sums are asked for
  float* sums;  // [C] of columns [x0, x1) of x
  int x0, x1;
};

template <class Op>
struct RmeStage {
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
  // conv.h.
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
    for (int c = 0; c < padded_dim; ++c) out.sums[c] = 0;
    each_chunk(s.x0, s.x1, [&](int from, int to) SM_LAMBDA_INLINE {
      const Row mixed = operand.window(from);
      for (int c = 0; c < padded_dim; c += 2) {
        vf sum[2] = {};
        each_column(from, to, [&]<int N>(Vectors<N>, int x) SM_LAMBDA_INLINE {
          vf value[2][N];
          stripe_column<Op>(group.stripe_v, in, value, c, x);
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i)
            for (int n = 0; n < N; ++n) {
              value[i][n] = gelu(value[i][n]);
              const int from = out.x0 - x - n * VL, to = out.x1 - x - n * VL;
              sum[i] += from <= 0 && to >= VL ? value[i][n] : keep_range(value[i][n], from, to);
            }
          for (int n = 0; n < N; ++n) Op::put(mixed, c, x + n * VL, value[0][n], value[1][n]);
        });
        for (int i = 0; i < 2; ++i) out.sums[c + i] += horizontal_sum(sum[i]);
      }
      if (!out.yp.p) return;
      matmul<Op, Epilogue::kResidual>(group.proj, one_tap(mixed), from, to, out.yp, residual);
      matmul<Op, Epilogue::kStore>(group.expert_b, one_tap(mixed), from, to, out.b);
    });
  }
};

// ---- RME after the barrier: the chosen experts -----------------------------------------------------------

struct MixStage {
  const Group& group;
  const Model& m;
  const Strip& s;
  const Routing& routing;
  const Plan& plan;
  int first_low;    // column of the map that `vertical` begins with
  Row vertical;     // one low-resolution row between two of the map
  Row z;            // w_e (B x) * (C k + up)
  Row left, right;  // bilinear source columns (left as int32), weight of the right one
  Row bias;         // w_e P a_e

  MixStage(Arena& arena, const Group& group_, const Strip& s_, const Model& m_, const Routing& routing_,
           const Plan& plan_)
      : group(group_), m(m_), s(s_), routing(routing_), plan(plan_) {
    first_low = tap(0).low / kColumnAlign * kColumnAlign;
    const int last = tap(s.w - 1).low + 1 < plan.map_w ? tap(s.w - 1).low + 1 : plan.map_w - 1;
    // pick() reads VL columns.
    vertical = arena.row(m.padded_rank, round_up(last + 1 - first_low + VL, kColumnAlign));
    bias = arena.row(1, round_up(m.padded_dim, kColumnAlign));
    z = arena.chunk(m.padded_rank);
    left = arena.row(1, s);
    right = arena.row(1, s);
  }

  void prepare() {
    for (int x = s.e0; x < s.e1; ++x) {
      const Tap2 at = tap(x < s.w ? x : s.w - 1);
      const int column = at.low - first_low;
      memcpy(left.at(0, x), &column, 4);
      *right.at(0, x) = at.weight;
    }
  }

  // The chosen experts' rows of the image's low-resolution map (rows `map_row` floats apart) at row r.
  void begin_row(int r, const Row& map, ptrdiff_t map_row) {
    const Tap2 tap = bilinear_tap(plan.area.top + r, plan.map_h, plan.area.full_h);
    const Row above = {map.p + first_low + tap.low * map_row, map.pitch};
    const Row below = {tap.weight > 0 ? above.p + map_row : above.p, map.pitch};
    for (int i = 0; i < routing.count; ++i)
      for (int j = first(i); j < first(i) + rank(i); ++j)
        for (int x = 0; x < vertical.pitch; x += VL) {
          const vf top = load(above.at(j, x));
          store(vertical.at(j, x), top + (load(below.at(j, x)) - top) * tap.weight);
        }
  }

  // Columns [from, to) of that row: out = yp + the chosen experts.
  void columns(int from, int to, const Row& yp, const Row& b, const Row& c, const Row& out) {
    fetch_columns(yp, 0, m.padded_dim, to,
                  to + kChunk);  // the next ones, while the products of these are made
    for (int i = 0; i < routing.count; ++i) {
      const float weight = routing.weight[i];
      fetch_columns(b, first(i), rank(i), to, to + kChunk);
      fetch_columns(c, first(i), rank(i), to, to + kChunk);
      for (int j = 0; j < rank(i); ++j) {
        const int channel = first(i) + j;
        const float* v = vertical.at(channel, 0);
        for (int x = from; x < to; x += VL) {
          vi index;
          memcpy(&index, left.at(0, x), sizeof index);
          const vf near = pick(v, index), far = pick(v + 1, index);
          const vf up = near + (far - near) * load(right.at(0, x));
          store(z.at(j, x - from), load(b.at(channel, x)) * (load(c.at(channel, x)) + up) * weight);
        }
      }
      Matrix a = group.expert_out[routing.expert[i]];
      for (int j = 0; j < a.m; ++j) *bias.at(0, j) = a.bias[j] * weight;
      a.bias = bias.p;
      matmul<Fp32, Epilogue::kResidual>(a, one_tap(z.window(from)), from, to, out, i ? out : yp);
    }
  }

 private:
  Tap2 tap(int x) const { return bilinear_tap(plan.area.left + x, plan.map_w, plan.area.full_w); }
  int first(int i) const { return m.rank_start[routing.expert[i]]; }
  int rank(int i) const { return m.rank[routing.expert[i]]; }
};

}  // namespace SM_ISA
}  // namespace seemore
