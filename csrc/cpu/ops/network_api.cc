// The C entry points of the network's differentiable operator: tensors of the official state dict to the
// leaves that the parts take, and the parts' gradients back to tensors.
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/isa/dispatch.h"
#include "cpu/isa/memory.h"
#include "cpu/ops/check.h"
#include "cpu/ops/ops.h"

using namespace seemore;

namespace {

constexpr int64_t kMostLayers = 4096, kMostScale = 64;

// The part of a leaf that a tensor is.
struct Piece {
  int leaf;
  int64_t first, rows, columns, pitch;
};

struct Layout {
  std::vector<int64_t> floats, offsets;  // of the leaves, 16 floats' multiples apart
  std::vector<Piece> pieces;             // of the tensors, in the state dict's order
  int64_t total = 0;

  Layout(const sm_network_op_params& t, const ops::NetworkOp& op)
      : floats(op.before + t.layers * (op.rme + op.sme) + op.after) {
    ops::NetworkLeaves leaves = {floats.data(), 0};
    op.leaves(t, leaves);
    for (const int64_t count : floats) {
      offsets.push_back(total);
      total += (count + 15) / 16 * 16;
    }
    whole(0, op.before);
    int leaf = op.before;
    for (int64_t i = 0; i < t.layers; ++i) {
      rme(t.op, leaf);
      leaf += op.rme;
      sme(leaf);
      leaf += op.sme;
    }
    whole(leaf, op.after);
  }

 private:
  void whole(int first, int count) {
    for (int leaf = first; leaf < first + count; ++leaf)
      pieces.push_back({leaf, 0, 1, floats[leaf], floats[leaf]});
  }

  void rme(const sm_op_params& p, int at) {
    whole(at, 6);       // norm_1, conv, split
    whole(at + 10, 6);  // agg, conv_0, conv_1
    whole(at + 6, 4);   // stripes
    int64_t all = 0, first = 0;
    for (int64_t e = 0; e < p.experts; ++e) all += p.ranks[e];
    for (int64_t e = 0; e < p.experts; first += p.ranks[e++]) {
      const int64_t rank = p.ranks[e];
      for (int b_or_c = 17; b_or_c <= 19; b_or_c += 2) {
        pieces.push_back({at + b_or_c, first * p.c, 1, rank * p.c, rank * p.c});
        pieces.push_back({at + b_or_c + 1, first, 1, rank, rank});
      }
      pieces.push_back({at + 21, first, p.c, rank, all});
      pieces.push_back({at + 22, e * p.c, 1, p.c, p.c});
    }
    whole(at + 16, 1);  // router
    whole(at + 23, 4);  // proj, norm_2
    ffn(at + 27);
  }

  void sme(int at) {
    whole(at, 2);       // norm_1
    whole(at + 8, 2);   // proj
    whole(at + 2, 6);   // qv, stripes
    whole(at + 10, 2);  // norm_2
    ffn(at + 12);
  }

  void ffn(int at) {
    whole(at, 2);      // fn_1
    whole(at + 4, 2);  // fn_2
    whole(at + 2, 2);  // gate
  }
};

// f(offset in the tensor, offset in the vector of leaves, floats) for each row of a piece.
template <class F>
void each_row(const Layout& layout, const Piece& piece, const F& f) {
  for (int64_t r = 0; r < piece.rows; ++r)
    f(r * piece.columns, layout.offsets[piece.leaf] + piece.first + r * piece.pitch, piece.columns);
}

// The layer and the head's part of what is asked for.
void find_wanted(const sm_network_op_params& t, const Layout& layout, const ops::NetworkOp& op,
                 ops::NetworkCall& call) {
  int first = (int)layout.floats.size();
  for (size_t i = 0; i < layout.pieces.size(); ++i) {
    const int leaf = layout.pieces[i].leaf;
    if (t.op.outputs[1 + i] && leaf < first) first = leaf;
  }
  call.head = t.op.outputs[0] || first < op.before;
  call.first = call.head ? 0 : (first - op.before) / (op.rme + op.sme);
}

}  // namespace

sm_status sm_network_op(const sm_network_op_params* t) {
  const sm_op_params& p = t->op;
  const IsaTables* isa = tables();
  if (!isa) return SM_ERROR_UNSUPPORTED;
  if (sm_status status = ops::check_options(p)) return status;
  if (sm_status status = ops::check_range(p.op, "layers", t->layers, 0, kMostLayers)) return status;
  if (sm_status status = ops::check_range(p.op, "scale", t->scale, 1, kMostScale)) return status;
  if (sm_status status = ops::check_range(p.op, "in_chans * scale * scale", t->in_chans * t->scale * t->scale,
                                          1, ops::kMostChannels))
    return status;
  if (sm_status status = ops::check_range(p.op, "bf16", t->bf16, 0, 1)) return status;
  if (!t->mean) return fail(SM_ERROR_ARGUMENT, "%s: mean is NULL", p.op);
  const ops::NetworkOp& op = isa->ops->network;
  const Layout layout(*t, op);
  const int64_t tensors = (int64_t)layout.pieces.size();
  if (t->inputs != 1 + tensors)
    return fail(SM_ERROR_ARGUMENT, "%s: inputs must be the image and %lld weights, got %lld tensors", p.op,
                (long long)tensors, (long long)t->inputs);
  if (sm_status status = ops::check_tensors(p, 1 + (int)layout.pieces.size(), (int)t->layers + 1))
    return status;

  std::vector<const float*> weights(layout.offsets.size());
  ops::NetworkCall call = {*t, weights.data(), layout.offsets.data(), layout.total, nullptr, 0, true};
  if (p.grad) find_wanted(*t, layout, op, call);
  const int64_t gradients = p.grad ? layout.total : 0;
  const std::unique_ptr<void, void (*)(void*)> memory(
      allocate(sizeof(float) * (layout.total + gradients + op.memory(call))), release);
  if (!memory) return fail(SM_ERROR_MEMORY, "%s: out of memory", p.op);
  float* const flat = static_cast<float*>(memory.get());
  call.gradients = flat + layout.total;

  for (size_t i = 0; i < layout.pieces.size() && p.n; ++i)
    each_row(layout, layout.pieces[i], [&](int64_t at, int64_t to, int64_t count) {
      memcpy(flat + to, p.inputs[1 + i] + at, sizeof(float) * count);
    });
  for (size_t leaf = 0; leaf < weights.size(); ++leaf) weights[leaf] = flat + layout.offsets[leaf];
  op.run(call, call.gradients + gradients);
  for (size_t i = 0; p.grad && i < layout.pieces.size(); ++i)
    if (float* const to = p.outputs[1 + i])
      each_row(layout, layout.pieces[i], [&](int64_t at, int64_t from, int64_t count) {
        memcpy(to + at, call.gradients + from, sizeof(float) * count);
      });
  return SM_OK;
}
